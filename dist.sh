#!/usr/bin/env bash
# Makes dist/: what is given to others. Called by `make dist`, which prepares the environment.
#
#   dist/bin/forebay-server, forebay, forebay-bench   for this machine's kind, with link-time optimisation
#   dist/forebay-spark.jar                            the plugin with native libraries for x86_64 and aarch64
#   dist/THIRD-PARTY.txt                              the licences of what of others is in them
#
# `make release` makes more: the programs for both kinds of processors, images, wheels and so on (deploy/release/release.sh).
#
# The libraries are linked against glibc 2.17 by zig, so that they load on every distribution that Spark runs on; one built with
# the system's own linker asks for the glibc of this machine. Without zig (not a Linux that PyPI has it for) the jar holds this
# machine's library only, and says so.
set -euo pipefail
cd "$(dirname "$0")"

target=${CARGO_TARGET_DIR:-target}
tools=${FOREBAY_CACHE:?run this by make dist}/dist-tools/bin
glibc=2.17
resources=$target/dist-native

echo "dist: server and tools (about 8 minutes on 2 cores the first time)"
cargo build --profile dist --package shuffle-server --package shuffle-benches
mkdir -p dist/bin
install -m 755 "$target/dist/forebay-server" "$target/dist/forebay" "$target/dist/forebay-bench" dist/bin/

rm -rf "$resources"
host=$(uname -m)
if [ -x "$tools/cargo-zigbuild" ]; then
  for machine in x86_64 aarch64; do
    triple=$machine-unknown-linux-gnu
    echo "dist: native library for $machine, glibc $glibc"
    rustup target list --installed | grep -qx "$triple" || rustup target add "$triple"
    PATH=$tools:$PATH cargo-zigbuild zigbuild --profile dist --package shuffle-jni --target "$triple.$glibc"
    install -D -m 644 "$target/$triple/dist/libforebay_jni.so" "$resources/io/forebay/native/linux-$machine/libforebay_jni.so"
  done
else
  echo "dist: no zig here, so the jar holds the library of this machine only ($host, this machine's glibc)" >&2
  cargo build --profile dist --package shuffle-jni
  install -D -m 644 "$target/dist/libforebay_jni.so" "$resources/io/forebay/native/linux-$host/libforebay_jni.so"
fi

echo "dist: the jar"
deploy/release/components.py notices dist/THIRD-PARTY.txt
deploy/release/jar.sh "$resources" dist/THIRD-PARTY.txt dist/forebay-spark.jar
if [ -x "$tools/cargo-zigbuild" ]; then
  deploy/release/glibc.sh "$glibc" "$resources"/io/forebay/native/*/*.so
fi
ls -l dist/bin/* dist/forebay-spark.jar
