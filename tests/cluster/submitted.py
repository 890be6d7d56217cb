"""The program of a submitted application: rows through two shuffles, and the same without any; one line of JSON is the answer."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "spark"))

from pyspark.sql import SparkSession

from worker import jobs

spark = SparkSession.builder.getOrCreate()
found = jobs.reshuffled(spark, rows=int(sys.argv[1]), maps=int(sys.argv[2]))
print("ANSWER", json.dumps(found | {"manager": spark.conf.get("spark.shuffle.manager")}), flush=True)
spark.stop()
