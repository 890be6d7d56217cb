#!/usr/bin/env bash
# Makes forebay-spark.jar of native libraries that were built before.
#
# Usage: jar.sh RESOURCES NOTICES OUT
#   RESOURCES   folder with io/forebay/native/linux-<machine>/libforebay_jni.so for each kind of processor
#   NOTICES     the licences of what is in them (components.py)
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
resources=$1 notices=$2 out=$3
root=$(cd "$(dirname "$0")/../.." && pwd)

native=$(realpath "$resources/io/forebay/native/linux-$(uname -m)")
mvn --batch-mode --no-transfer-progress --quiet -f "$root/jvm-bridge/pom.xml" package -DskipTests "-Dnative.dir=$native"
mkdir -p "$(dirname "$out")"
install -m 644 "$root/jvm-bridge/target/forebay-spark.jar" "$out"
install -D -m 644 "$notices" "$resources/META-INF/THIRD-PARTY.txt"
jar --update --file "$out" -C "$resources" io -C "$resources" META-INF
