#!/usr/bin/env bash
# Builds librocksdb.a once, into a cache outside the checkout, and prints that directory.
#
# The crate's own build script compiles 343 files one by one (11 minutes on 2 cores, 18 with debug info). Here the same
# sources are compiled as about 70 units of ten files each, without debug info: 4.5 minutes, and never again on this machine.
# The archive's name carries the crate's version and the compiler's, so a new one of either builds its own.
# Without this cache a plain `cargo build` still works; it only takes longer.
#
# Usage: rocksdb.sh [--if-built] [--release MACHINE] CACHE_DIR     then: ROCKSDB_LIB_DIR=<printed dir> ROCKSDB_STATIC=1 cargo build
#   --if-built          builds nothing; prints nothing when the archive is not there
#   --release MACHINE   what is given to others (`make release`): for x86_64 or aarch64, compiled by zig against glibc 2.17 and its own
#                       C++ library; python-zig, of `setup.sh --dist`, must be on the PATH
set -euo pipefail

usage='usage: rocksdb.sh [--if-built] [--release MACHINE] CACHE_DIR'
if_built=false
machine=$(uname -m)
compiler=(g++)
archiver=(ar)
version=$(g++ -dumpfullversion)
speed="" # instructions for checksums; what lacks them is told so at the start (cpu.c), or RocksDB looks itself (aarch64)
case $machine in x86_64) speed="-msse4.2 -mpclmul" ;; esac
while [[ ${1:-} == --* ]]; do
  case $1 in
    --if-built) if_built=true ;;
    --release)
      machine=${2:?$usage}
      shift
      compiler=(python-zig c++ -target "$machine-linux-gnu.2.17")
      archiver=(python-zig ar)
      version="zig $(python-zig version)"
      case $machine in
        x86_64) speed="-g0 -mcpu=x86_64_v2+pclmul" ;; # zig would add debug information by itself
        aarch64) speed="-g0 -mcpu=generic+crc+crypto" ;;
        *) echo "rocksdb.sh: no release for '$machine': x86_64 or aarch64" >&2; exit 2 ;;
      esac
      ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  shift
done
cache=${1:?$usage}
root=$(cd "$(dirname "$0")/.." && pwd)
manifest=$(cargo metadata --manifest-path "$root/Cargo.toml" --format-version 1 --locked |
  python3 -c 'import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "librocksdb-sys"))')
source_dir=$(dirname "$manifest")
flags="-DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX
 -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
 -std=c++20 -include cstdint -w -ffunction-sections -fdata-sections -fPIC -O2"
[ -z "$speed" ] || flags="$flags $speed"
id=$(printf '%s\n%s\n%s\n' "$flags" "$version" "$machine" | sha256sum | cut -c1-12)
out="$cache/$(basename "$source_dir")-$id"

if [ -s "$out/librocksdb.a" ]; then
  echo "$out"
  exit 0
fi
$if_built && exit 0

mkdir -p "$cache"
exec 9>"$cache/.lock" # two checkouts that start together build it once
flock 9
rm -rf "$cache"/.build.* # what a killed run left; the lock says nobody uses it
if [ ! -s "$out/librocksdb.a" ]; then
  units=$(mktemp -d "$cache/.build.XXXXXX")
  trap 'rm -rf "$units"' EXIT
  python3 - "$source_dir" "$units" <<'PY'
import itertools, os, sys
source_dir, units = sys.argv[1:]
per_unit = 10
with open(os.path.join(source_dir, "rocksdb_lib_sources.txt")) as listing:
    files = sorted((f for f in map(str.strip, listing) if f and f != "util/build_version.cc"), key=os.path.dirname)
number = 0
for _, folder in itertools.groupby(files, key=os.path.dirname):
    folder = list(folder)
    for start in range(0, len(folder), per_unit):
        with open(os.path.join(units, f"u{number:03d}.cc"), "w") as unit:
            unit.writelines(f'#include "{source_dir}/rocksdb/{f}"\n' for f in folder[start:start + per_unit])
        number += 1
PY
  cp "$source_dir/build_version.cc" "$units/version.cc"
  total=$(ls "$units"/*.cc | wc -l)
  echo "building RocksDB once for $machine ($version): $total units on $(nproc) cores, about 5 minutes on 2 (kept in $out)" >&2
  (
    while sleep 20; do echo "  RocksDB: $(ls "$units"/*.o 2>/dev/null | wc -l) of $total units" >&2; done
  ) 9>&- &
  ticker=$!
  # "No such process" must not be what this script ends with.
  trap 'kill $ticker 2>/dev/null || true; rm -rf "$units"' EXIT
  # shellcheck disable=SC2086 # the flags are words
  ls -S "$units"/*.cc | xargs -P "$(nproc)" -I{} "${compiler[@]}" -I"$source_dir/rocksdb/include" -I"$source_dir/rocksdb" -I"$source_dir" $(echo $flags) -c {} -o {}.o
  kill $ticker 2>/dev/null || true
  "${archiver[@]}" rcs "$units/librocksdb.a" "$units"/*.o
  mkdir -p "$out"
  mv "$units/librocksdb.a" "$out/librocksdb.a"
fi
echo "$out"
