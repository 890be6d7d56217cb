#!/usr/bin/env bash
# Makes a wheel of programs and a jar that were built before.
#
# Usage: wheel.sh PLATFORM PROGRAMS JAR NOTICES SPARK_JARS OUT
#   PLATFORM     of the tag: manylinux_2_17_x86_64, or linux_x86_64 for what only this machine should have
#   PROGRAMS     folder of forebay, forebay-server and forebay-bench
#   JAR          forebay-spark.jar
#   NOTICES      the licences of what is in them (notices.py)
#   SPARK_JARS   folder of Spark 3.5's jars: the demo's few lines of Java are compiled against the oldest line
#   OUT          folder that gets the wheel
set -euo pipefail
[ $# -eq 6 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
platform=$1 programs=$2 jar=$3 notices=$4 spark_jars=$5
mkdir -p "$6"
out=$(realpath "$6")
root=$(cd "$(dirname "$0")/../.." && pwd)

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cp -r "$root/deploy/python/." "$stage"
install -m 644 -t "$stage" "$root/LICENSE" "$root/NOTICE" "$jar"
install -m 644 "$notices" "$stage/THIRD-PARTY.txt"
install -D -m 755 -t "$stage/programs" "$programs"/forebay "$programs"/forebay-server "$programs"/forebay-bench
"$root/deploy/release/version.py" >"$stage/VERSION"
# The demo is `make demo`'s own: tests/spark, as far as it needs it.
mkdir "$stage/forebay/_demo"
cp -r "$root/tests/spark/demo.py" "$root/tests/spark/harness" "$root/tests/spark/worker" "$stage/forebay/_demo"
javac --release 11 -nowarn -proc:none -cp "$spark_jars/*" -d "$stage/classes" "$root"/tests/spark/jvm/io/forebay/jobs/Rows.java 2>"$stage/javac.log" ||
  { cat "$stage/javac.log" >&2; exit 1; }
jar --create --file "$stage/forebay/_demo/jobs.jar" --date=1980-01-01T00:00:02Z -C "$stage/classes" .
find "$stage" -name __pycache__ -prune -exec rm -rf {} +
cd "$stage"
FOREBAY_WHEEL_PLATFORM=$platform SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800} \
  "${FOREBAY_CACHE:?run this by make}/check-tools/bin/python" -m hatchling build -t wheel -d "$out" | sed "s|^|wheel: |"
