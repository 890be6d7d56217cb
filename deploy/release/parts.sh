#!/usr/bin/env bash
# Keeps what `make build` made in the cache, by the sources that it was made of: the demo of another checkout of the same sources then
# compiles nothing. Only the demo takes it; whatever builds and tests builds its own.
#
# Usage: parts.sh keep    after a build, of files as git has them; of others nothing is kept
#        parts.sh find    prints the folder of forebay-server, forebay and forebay-spark.jar; nothing where there is none
set -euo pipefail
[ $# -eq 1 ] || { sed -n '5,6s/^# //p' "$0" >&2; exit 2; }
cd -P "$(dirname "$0")/../.."
cache=${FOREBAY_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set; set FOREBAY_CACHE}/.cache}/forebay}/parts
target=${CARGO_TARGET_DIR:-target}
# All that programs and jar are made of; changed files anywhere in them mean that there is nothing to keep or to find.
sources=(.cargo Cargo.toml Cargo.lock LICENSE NOTICE rust-toolchain.toml benches jvm-bridge proto shuffle-client shuffle-server tests/Cargo.toml)

[ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ] && [ -z "$(git status --porcelain --untracked-files=normal -- "${sources[@]}")" ] || exit 0

configurations() { # that cargo reads beside the checkout's own, and what the environment says in their place
  local folder=$PWD
  while folder=$(dirname "$folder"); [ "$folder" != / ]; do cat "$folder/.cargo/config" "$folder/.cargo/config.toml" 2>/dev/null || true; done
  cat "${CARGO_HOME:-$HOME/.cargo}/config.toml" 2>/dev/null || true
  env | grep -E '^(RUSTFLAGS|CARGO_ENCODED_RUSTFLAGS|CARGO_(BUILD|PROFILE|TARGET)_[A-Z0-9_]+|CFLAGS|CXXFLAGS)=' | grep -v '^CARGO_TARGET_DIR=' | LC_ALL=C sort || true
}

folder=$cache/$({ uname -m; git ls-tree HEAD -- "${sources[@]}"; configurations; } | sha256sum | cut -c1-16)

case $1 in
  find)
    # A cache may be shared with machines whose glibc is older.
    [ -e "$folder/forebay-spark.jar" ] && "$folder/forebay-server" --version >/dev/null 2>&1 || exit 0
    touch "$folder"
    echo "$folder"
    ;;
  keep)
    [ ! -e "$folder" ] || exit 0
    # Built from this commit, and not before files were changed and changed back.
    [[ $("$target/release/forebay-server" --version) == *"(commit $(git rev-parse --short=12 HEAD),"* ]] || exit 0
    mkdir -p "$cache"
    fresh=$(mktemp -d "$cache/.fresh.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    for program in forebay-server forebay; do strip --strip-debug -o "$fresh/$program" "$target/release/$program"; done
    install -m 644 jvm-bridge/target/forebay-spark.jar "$fresh"
    chmod 755 "$fresh"
    mv -T "$fresh" "$folder" 2>/dev/null || true # another checkout may have been first
    find "$cache" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d' ' -f2- | xargs -r -d '\n' rm -rf
    ;;
  *) echo "parts.sh: '$1' is neither keep nor find" >&2; exit 2 ;;
esac
