#!/usr/bin/env bash
# Builds the images as OCI archives, without a Docker engine and without a registry: buildah reads the Dockerfile, nothing is run in it.
#
# Usage: images.sh CONTEXT VERSION OUT ARCHITECTURE…
#   CONTEXT        linux-<architecture>/{forebay,forebay-server,forebay-bench}, forebay-spark.jar, THIRD-PARTY.txt
#   OUT            gets forebay-VERSION-<architecture>.oci.tar, forebay-spark-VERSION.oci.tar, base-<architecture>.packages
#   ARCHITECTURE   amd64, arm64
# BASE_AMD64 and BASE_ARM64 name other base images; without them the base is glibc and certificates of Debian's packages (base.py).
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
context=$(realpath "$1") version=$2
mkdir -p "$3"
out=$(realpath "$3")
shift 3
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
epoch=${SOURCE_DATE_EPOCH:-315532800}
command -v buildah >/dev/null || { echo "images.sh: buildah is not here: apt-get install buildah" >&2; exit 1; }

work=$(mktemp -d)
# A store of its own: whatever images the machine has are neither used nor touched.
store=(--root "$work/store" --runroot "$work/run" --storage-driver vfs)
trap 'rm -rf "$work"' EXIT
printf '[registries.search]\nregistries = []\n' >"$work/registries.conf"
printf '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
export BUILDAH_ISOLATION=chroot CONTAINERS_REGISTRIES_CONF=$work/registries.conf
buildah() { command buildah "${store[@]}" "$@"; }

# Beside the programs: licences, and directories that volumes are mounted over.
common=$context/common
rm -rf "$common"
install -D -m 644 -t "$common/usr/share/doc/forebay" "$root/LICENSE" "$root/NOTICE" "$context/THIRD-PARTY.txt"
install -d -m 1777 "$common/data" "$common/tmp"

bud() { # ARCHITECTURE TARGET TAG BASE
  buildah bud --quiet --format oci --layers=false --timestamp "$epoch" --platform "linux/$1" --target "$2" --tag "$3" \
    --signature-policy "$work/policy.json" --build-arg "BASE=$4" --build-arg "VERSION=$version" \
    --build-arg "REVISION=${BUILD_COMMIT:-unknown}" --build-arg "CREATED=$(date -u -d "@$epoch" +%FT%TZ)" \
    --file "$here/Dockerfile" "$context" >/dev/null
}

archive() { # TAG FILE
  rm -f "$2"
  buildah push --quiet --signature-policy "$work/policy.json" "$1" "oci-archive:$2:${1#localhost/}" >/dev/null
  echo "images: $(basename "$2") $(($(stat -c %s "$2") / 1048576)) MiB"
}

for architecture in "$@"; do
  name=BASE_${architecture^^}
  base=${!name:-}
  if [ -z "$base" ]; then
    base=localhost/base:$architecture
    "$here/base.py" "$architecture" "$work/base.tar" "$out/base-$architecture.packages"
    mkdir "$work/base"
    tar -C "$work/base" -xf "$work/base.tar"
    container=$(buildah from --arch "$architecture" scratch)
    buildah copy --quiet "$container" "$work/base" / >/dev/null
    buildah config --arch "$architecture" "$container"
    buildah commit --quiet --format oci --timestamp "$epoch" --signature-policy "$work/policy.json" "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$work/base" "$work/base.tar"
  fi
  bud "$architecture" server "localhost/forebay:$version" "$base"
  archive "localhost/forebay:$version" "$out/forebay-$version-$architecture.oci.tar"
  # The same jar, and a name for each kind of node: what pulls images asks for its own.
  bud "$architecture" spark "localhost/forebay-spark:$version" "$base"
  suffix=$([ "$architecture" = "$1" ] && echo "" || echo "-$architecture")
  archive "localhost/forebay-spark:$version" "$out/forebay-spark-$version$suffix.oci.tar"
done
