"""One Spark application under orders: reads calls as JSON lines on its standard input, answers on the descriptor it is given.

Runs with the Python of a Spark line, so it uses nothing but that and the standard library. Each call has its own thread: a
test may cancel the job that another call is waiting for. The end of the input is the end of the application.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyspark.sql import SparkSession

from worker import drivers, jobs, kills, rdds, retries, streams

CALLS = {name: call for module in (drivers, jobs, kills, rdds, retries, streams) for name, call in vars(module).items() if callable(call)}


def main():
    conf, answers = json.loads(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w")
    lock = threading.Lock()

    def answer(message):
        with lock:
            print(json.dumps(message), file=answers, flush=True)

    def obey(call):
        try:
            result = CALLS[call["name"]](spark, **call["args"])
            answer({"id": call["id"], "result": result})
        except Exception:  # the test decides whether it was expected
            answer({"id": call["id"], "error": traceback.format_exc()})

    try:
        builder = SparkSession.builder
        for key, value in conf.items():
            builder = builder.config(key, value)
        spark = builder.getOrCreate()
    except Exception:
        answer({"id": 0, "error": traceback.format_exc()})
        raise
    answer({"id": 0, "result": spark.sparkContext.applicationId})
    for line in sys.stdin:
        threading.Thread(target=obey, args=(json.loads(line),), daemon=True).start()
    spark.stop()


main()
