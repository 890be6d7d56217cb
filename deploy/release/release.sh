#!/usr/bin/env bash
# Makes everything that is given away, in dist/. Called by `make release`, which prepares the environment. It reaches no address but those of
# package registries, and needs no Docker engine.
#
#   bin/, forebay-spark.jar                              as `make dist`
#   forebay-V-linux-{x86_64,aarch64}.tar.gz              server, tool, bench and the jar, for glibc 2.17 and newer
#   images/forebay-V-{amd64,arm64}.oci.tar               images/forebay-spark-V[-arm64].oci.tar: only the jar
#   maven/                                               a repository: io.forebay:forebay-spark:V
#   python/forebay-V-py3-none-manylinux_2_17_*.whl
#   helm/forebay-V.tgz, manifests/                       the chart, and renders of it
#   sbom/*.cdx.json, THIRD-PARTY.txt, SHA256SUMS
#
# MACHINES="x86_64" makes the parts of one kind of processor alone; PROFILE=release builds them without link-time optimisation.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${FOREBAY_CACHE:?run this by make release}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
machines=${MACHINES:-x86_64 aarch64}
profile=${PROFILE:-dist}
glibc=2.17
version=$(deploy/release/version.py)
dist=$PWD/dist
work=$target/release-parts
tools=$cache/dist-tools/bin
python=$cache/check-tools/bin/python
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}
began=$SECONDS

say() { echo "release: $((SECONDS - began)) s: $*"; }
deploy/release/version.py --check
[ -x "$tools/cargo-zigbuild" ] || { echo "release: there is no zig for this machine, which links for glibc $glibc" >&2; exit 1; }

# === programs and native libraries ===

programs() { # MACHINE
  local triple=$1-unknown-linux-gnu archive
  archive=$(PATH=$tools:$PATH shuffle-server/rocksdb.sh --release "$1" "$cache/rocksdb")
  rustup target list --installed | grep -qx "$triple" || rustup target add "$triple"
  # What RocksDB's C header includes comes with every compiler; none of this machine's own headers is to be found for another machine.
  # The day is in BUILD_DATE; where the epoch of a new commit is told, all of C and what depends on it is compiled again.
  env -u SOURCE_DATE_EPOCH PATH="$tools:$PATH" ROCKSDB_LIB_DIR="$archive" ROCKSDB_STATIC=1 \
    BINDGEN_EXTRA_CLANG_ARGS="-ffreestanding -I$(gcc -print-file-name=include)" \
    cargo-zigbuild zigbuild --profile "$profile" --target "$triple.$glibc" \
    --package shuffle-server --package shuffle-benches --package shuffle-jni
  local built=$target/$triple/$profile program
  mkdir -p "$work/$1"
  for program in forebay forebay-server forebay-bench; do
    without_debug_information "$built/$program" "$work/$1/$program"
  done
  install -D -m 644 "$built/libforebay_jni.so" "$work/resources/io/forebay/native/linux-$1/libforebay_jni.so"
  deploy/release/glibc.sh "$glibc" "$work/$1"/* "$work/resources/io/forebay/native/linux-$1/libforebay_jni.so"
}

without_debug_information() { # FROM TO: the symbols of functions stay, so that a panic says where
  # Rust's own tool knows all kinds of processors; zig has none, and this machine's may know only its own.
  local sysroot
  sysroot=$(rustc --print sysroot)
  LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$(rustc --print host-tuple)/bin/rust-objcopy" --strip-debug "$1" "$2"
  chmod 755 "$2"
}

rm -rf "$dist" "$work/resources"
mkdir -p "$dist" "$work"
for machine in $machines; do
  say "programs and native library for $machine (about 15 minutes of 2 cores each the first time, 5 of them RocksDB)"
  programs "$machine"
done

say "licences, components"
python3 deploy/release/components.py notices "$dist/THIRD-PARTY.txt"
"$python" deploy/release/components.py sbom programs "$dist/sbom/forebay-server.cdx.json"
"$python" deploy/release/components.py sbom jar "$dist/sbom/forebay-spark.cdx.json"

say "the jar"
deploy/release/jar.sh "$work/resources" "$dist/THIRD-PARTY.txt" "$dist/forebay-spark.jar"
host=$(uname -m)
[ ! -d "$work/$host" ] || install -D -m 755 -t "$dist/bin" "$work/$host"/*

# === archives ===

say "archives"
for machine in $machines; do
  name=forebay-$version-linux-$machine
  rm -rf "${work:?}/$name"
  install -D -m 755 -t "$work/$name/bin" "$work/$machine"/*
  install -D -m 644 -t "$work/$name/share/forebay" "$dist/forebay-spark.jar"
  install -m 644 -t "$work/$name" LICENSE NOTICE CHANGELOG.md "$dist/THIRD-PARTY.txt"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$work" -c "$name" | gzip -n -9 >"$dist/$name.tar.gz"
done

say "images"
context=$work/context
rm -rf "$context"
architectures=()
for machine in $machines; do
  case $machine in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; esac
  architectures+=("$architecture")
  install -D -m 755 -t "$context/linux-$architecture" "$work/$machine"/*
done
install -m 644 -t "$context" "$dist/forebay-spark.jar" "$dist/THIRD-PARTY.txt"
deploy/images/images.sh "$context" "$version" "$dist/images" "${architectures[@]}"
for architecture in "${architectures[@]}"; do
  packages=$dist/images/base-$architecture.packages
  [ ! -e "$packages" ] || "$python" deploy/release/components.py sbom image "$dist/sbom/forebay-image-$architecture.cdx.json" --debian "$packages"
  rm -f "$packages"
done

say "the Maven repository"
deploy/release/maven.sh "$dist/forebay-spark.jar" "$version" "$dist/maven"

say "wheels"
jars=$(echo "$cache"/pyspark-3.5.9/lib/python3*/site-packages/pyspark/jars)
for machine in $machines; do
  deploy/release/wheel.sh "manylinux_2_17_$machine" "$work/$machine" "$dist/forebay-spark.jar" "$dist/THIRD-PARTY.txt" "$jars" "$dist/python"
done

say "the chart"
mkdir -p "$dist/helm" "$dist/manifests"
"$cache/charts/bin/python" -c 'import sys, helm_python; helm_python.Chart.load("deploy/helm/forebay").save(sys.argv[1])' "$dist/helm"
cp deploy/manifests/*.yaml "$dist/manifests/"

(cd "$dist" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum >SHA256SUMS)
say "dist/ is whole"
(cd "$dist" && find . -maxdepth 2 -type f -printf '%10s  %P\n' | sort -k 2)
