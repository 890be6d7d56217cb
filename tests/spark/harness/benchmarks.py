"""TPC-H and TPC-DS: tables as Parquet, made once per checkout, and the texts of the queries.

The tables of TPC-H come from tpchgen-cli; those of TPC-DS and both sets of queries from the DuckDB wheel that setup.sh installs,
which has them compiled in (later ones would download them). No text of a query is stored here.
"""

import os
import shutil
import subprocess
from pathlib import Path

from harness.places import TARGET, Missing

# The queries' own words for identifiers; Spark reads them so in its ANSI mode, which is not the default on every line.
DIALECT = {"spark.sql.ansi.enabled": "true", "spark.sql.ansi.doubleQuotedIdentifiers": "true"}


def tpch(scale: str) -> Path:
    """The folder of the TPC-H tables, each a `<name>.parquet`. `scale` is in GB of text, "0.1" for example."""

    def make(folder: Path):
        command = ["tpchgen-cli", "parquet", "-s", scale, "-o", str(folder)]
        made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if made.returncode != 0:
            raise Missing(f"{' '.join(command)} failed: {made.stdout[-2000:]}")

    return _once(TARGET / "tpch" / f"sf{scale}", make)


def tpcds(scale: str) -> Path:
    """The same for TPC-DS. One GB takes 20 s, 300 MB of disk and 2 GB of memory."""

    def make(folder: Path):
        with _duckdb() as db:
            db.execute(f"CALL dsdgen(sf = {float(scale)})")
            db.execute(f"EXPORT DATABASE '{folder}' (FORMAT parquet, COMPRESSION zstd)")
        for script in folder.glob("*.sql"):
            script.unlink()

    return _once(TARGET / "tpcds" / f"sf{scale}", make)


TABLES = {"tpch": tpch, "tpcds": tpcds}


def queries(benchmark: str) -> dict[str, str]:
    """The texts by name, "q1" and so on: 22 of "tpch", 99 of "tpcds"."""
    with _duckdb() as db:
        return {f"q{number}": text for number, text in db.execute(f"SELECT query_nr, query FROM {benchmark}_queries()").fetchall()}


def _once(folder: Path, make) -> Path:
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        fresh.mkdir(parents=True)
        try:
            make(fresh)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _duckdb():
    try:
        import duckdb
    except ImportError:
        raise Missing("the Python package duckdb is not installed: run ./setup.sh") from None
    db = duckdb.connect()
    db.execute("SET enable_progress_bar = false")
    return db
