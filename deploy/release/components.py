#!/usr/bin/env python3
"""What of others is in the things that we give away: their licences as one text, and lists of components (CycloneDX).

    components.py notices OUT                                THIRD-PARTY.txt
    components.py sbom programs|jar|image OUT [--debian F]   what is in the programs, the jar's native library or the server's image;
                                                             F has a line `name version architecture` per Debian package of its base

Both follow the dependencies that are linked (not those that only build or test) as cargo resolves them for both kinds of processors.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import uuid
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
ROOTS = {"programs": ("shuffle-server", "shuffle-benches"), "jar": ("shuffle-jni",)}
ROOTS["image"] = ROOTS["programs"] + ROOTS["jar"]
LICENCE_FILE = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)([.\-_].*)?$", re.I)
# Software of others that lies in a crate's folder, below what cargo knows of.
INSIDE = {
    "librocksdb-sys": ["rocksdb/LICENSE.Apache", "rocksdb/LICENSE.leveldb"],
    "tikv-jemalloc-sys": ["jemalloc/COPYING"],
    "zstd-sys": ["zstd/LICENSE"],
}


def packages(roots) -> dict[str, dict]:
    """The packages of others that are linked into what these make, by "name version"."""
    found = {}
    for target in TARGETS:
        metadata = json.loads(
            subprocess.run(
                ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target, "--manifest-path", ROOT / "Cargo.toml"],
                capture_output=True,
                check=True,
            ).stdout
        )
        by_id = {package["id"]: package for package in metadata["packages"]}
        nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        waiting = [package["id"] for package in metadata["packages"] if package["name"] in roots and package["source"] is None]
        seen = set()
        while waiting:
            this = waiting.pop()
            if this in seen:
                continue
            seen.add(this)
            linked = [dep["pkg"] for dep in nodes[this]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
            waiting.extend(linked)
            package = by_id[this]
            if package["source"]:
                entry = found.setdefault(f"{package['name']} {package['version']}", {**package, "linked": set()})
                entry["linked"].update(f"{by_id[dep]['name']} {by_id[dep]['version']}" for dep in linked if by_id[dep]["source"])
    return dict(sorted(found.items()))


# === licences ===


def licence_files(package: dict) -> list[Path]:
    folder = Path(package["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if path.is_file() and LICENCE_FILE.match(path.name))
    folders = [path for path in folder.iterdir() if path.is_dir() and path.name.lower() in ("licenses", "license")]
    files += sorted(path for sub in folders for path in sub.iterdir() if path.is_file())
    inside = [folder / name for name in INSIDE.get(package["name"], [])]
    if missing := [str(path) for path in inside if not path.exists()]:
        raise SystemExit(f"components.py: {', '.join(missing)} is not there any more: look where that licence went")
    return files + inside


def toolchain() -> list[tuple[str, Path]]:
    """What the compilers add: Rust's library, and LLVM's C++ library where zig links."""
    sysroot = Path(subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip())
    texts = [sysroot / "share/doc/rust/licenses" / name for name in ("Apache-2.0.txt", "MIT.txt")]
    files = [("the Rust standard library", path) for path in texts if path.exists()]
    cache = Path(os.environ.get("FOREBAY_CACHE", Path.home() / ".cache/forebay"))
    for part in ("libcxx", "libunwind"):
        found = sorted(cache.glob(f"dist-tools/lib/python3*/site-packages/ziglang/lib/{part}/LICENSE.TXT"))
        files += [(f"LLVM {part}", path) for path in found[:1]]
    return files


def notices() -> str:
    texts = defaultdict(list)
    without = []
    linked = packages(ROOTS["image"])
    for name, package in linked.items():
        files = licence_files(package)
        if not files:
            without.append(f"{name} ({package['license']}), {', '.join(package['authors']) or 'its authors'}, {package['repository']}")
        for path in files:
            inside = path.parent.name if path.parent != Path(package["manifest_path"]).parent else ""
            texts[clean(path)].append(f"{name}{f', {inside}' if inside else ''}")
    for name, path in toolchain():
        texts[clean(path)].append(name)
    said = [
        "Software of others that is in Forebay's programs, in the native library of forebay-spark.jar, and in its images.",
        "Rust packages by name and version, with their licences as their authors state them:\n",
        *(f"  {name}: {package['license']}" for name, package in linked.items()),
        "\nThese come without a file of their licence, which is the one that is named:\n",
        *(f"  {line}" for line in without),
        "\nImages also contain the GNU C Library (LGPL-2.1-or-later), GCC's libraries (GPL-3.0-or-later with its runtime exception) and Mozilla's",
        "certificates (MPL-2.0), as Debian packages of their base; their texts are in /usr/share/doc of the image.\n",
    ]
    for text, owners in sorted(texts.items(), key=lambda item: item[1]):
        said += ["=" * 100, *wrapped(owners), "=" * 100, "", text, ""]
    return "\n".join(said)


def clean(path: Path) -> str:
    return "\n".join(line.rstrip() for line in path.read_text(errors="replace").strip().splitlines())


def wrapped(owners: list[str]) -> list[str]:
    lines = [""]
    for owner in dict.fromkeys(owners):
        if len(lines[-1]) + len(owner) > 96:
            lines.append("")
        lines[-1] += ("; " if lines[-1] else "") + owner
    return lines


# === components ===


def sbom(of: str, debian: list[str]) -> str:
    import tomllib

    from cyclonedx.model import HashAlgorithm, HashType, XsUri, ExternalReference, ExternalReferenceType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.validation.json import JsonStrictValidator
    from cyclonedx.schema import SchemaVersion
    from packageurl import PackageURL

    version = subprocess.run([sys.executable, ROOT / "deploy/release/version.py"], capture_output=True, text=True, check=True).stdout.strip()
    licence = LicenseFactory().make_from_string
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {f"{package['name']} {package['version']}": package.get("checksum") for package in locked}

    name = {"programs": "forebay-server", "jar": "forebay-spark", "image": "forebay"}[of]
    kind = {"programs": ComponentType.APPLICATION, "jar": ComponentType.LIBRARY, "image": ComponentType.CONTAINER}[of]
    purl = {
        "programs": PackageURL("generic", None, name, version),
        "jar": PackageURL("maven", "io.forebay", name, version),
        "image": PackageURL("oci", None, name, None, {"tag": version}),
    }[of]
    ours = Component(name=name, version=version, type=kind, purl=purl, bom_ref=str(purl), licenses=[licence("Apache-2.0")])
    bom = Bom(metadata=BomMetaData(component=ours, timestamp=moment()), serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{purl}"))
    linked = packages(ROOTS[of])
    components = {}
    for key, package in linked.items():
        url = PackageURL("cargo", None, package["name"], package["version"])
        components[key] = Component(
            name=package["name"],
            version=package["version"],
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=str(url),
            licenses=[licence(package["license"].replace("/", " OR "))] if package["license"] else [],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksums[key])] if checksums.get(key) else [],
            external_references=[ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(package["repository"]))] if package["repository"] else [],
        )
        bom.components.add(components[key])
    packages_of_debian = []
    for line in debian:
        package, of_version, architecture = line.split()
        url = PackageURL("deb", "debian", package, of_version, {"arch": architecture})
        packages_of_debian.append(Component(name=package, version=of_version, type=ComponentType.LIBRARY, purl=url, bom_ref=str(url)))
        bom.components.add(packages_of_debian[-1])
    for key, package in linked.items():
        bom.register_dependency(components[key], [components[dep] for dep in sorted(package["linked"])])
    bom.register_dependency(ours, [*components.values(), *packages_of_debian])
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if broken := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"components.py: the list does not follow its schema: {broken}")
    return text + "\n"


def moment() -> datetime:
    return datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or 315532800), timezone.utc)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("notices").add_argument("out", type=Path)
    listing = commands.add_parser("sbom")
    listing.add_argument("of", choices=ROOTS)
    listing.add_argument("out", type=Path)
    listing.add_argument("--debian", type=Path)
    options = parser.parse_args()
    if options.command == "notices":
        text = notices()
    else:
        debian = options.debian.read_text().splitlines() if options.debian else []
        text = sbom(options.of, [line for line in debian if line.strip()])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)


if __name__ == "__main__":
    main()
