#!/usr/bin/env bash
# Builds into the cache what a Kubernetes on this machine consists of, and prints the folder it is in.
#
#   tests/cluster/programs.sh CACHE               builds what is missing (cold: 10 minutes of two free cores, 7 GB while it goes on, 700 MB afterwards)
#   tests/cluster/programs.sh --if-built CACHE    builds nothing; prints nothing if something is missing
#
# Kubernetes, etcd, CoreDNS and Helm are built from Go modules, pinned by the go.mod and go.sum files in programs/.
# containerd, runc and the CNI plugins are Debian's, unpacked and not installed: installed they would start a
# service and drive Docker out. The folder is named after all of these, so another version gets another folder.
# The build's own caches are in it too, so an interrupted build goes on where it was, and removed at the end.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if_built=false
[ "${1:-}" != --if-built ] || { if_built=true; shift; }
cache=${1:?the cache folder}
kubernetes=$(sed -n 's/^require k8s.io\/kubernetes v//p' "$here/programs/kubernetes/go.mod")
packages=(containerd runc containernetworking-plugins)
how=1 # they are built: another number builds them anew
held=$(cd "$here" && { echo "$how" && cat programs/*/go.mod programs/*/go.sum programs/*/*.go programs/pause.c; } | sha256sum | cut -c1-12)
dir=$cache/kubernetes-$kubernetes-$held
built=$dir/.built

if [ -e "$built" ] || $if_built; then
  [ ! -e "$built" ] || echo "$dir"
  exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

command -v go >/dev/null || fail "no cluster: Go is not here (1.26 or newer, https://go.dev/dl)"
command -v gcc >/dev/null || fail "no cluster: gcc is not here"
command -v apt-get >/dev/null || fail "no cluster: containerd, runc and the CNI plugins come from Debian's packages, and apt-get is not here"
mkdir -p "$dir/bin" "$dir/building"
export GOPATH=$dir/building/go GOCACHE=$dir/building/cache GOTOOLCHAIN=local GOFLAGS=-modcacherw CGO_ENABLED=0

built_by_go() { # NAME FOLDER-OF-MODULE PACKAGE [LINKER-FLAGS]
  [ ! -x "$dir/bin/$1" ] || return 0
  local start=$SECONDS
  # Moved into place when whole: an interrupted linker leaves a file too.
  (cd "$here/programs/$2" && nice -n 10 go build -trimpath -buildvcs=false -ldflags "-s -w ${4:-}" -o "$dir/building/$1" "$3" >&2)
  mv "$dir/building/$1" "$dir/bin/$1"
  say "$1: $((SECONDS - start)) s"
}

version=k8s.io/component-base/version
flags="-X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=$(echo "$kubernetes" | cut -d. -f2)"
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl kubelet; do
  built_by_go $name kubernetes k8s.io/kubernetes/cmd/$name "$flags"
done
built_by_go etcd etcd go.etcd.io/etcd/server/v3
built_by_go coredns coredns .
built_by_go helm helm helm.sh/helm/v3/cmd/helm
gcc -static -Os -s -o "$dir/bin/pause" "$here/programs/pause.c"

(
  cd "$dir/building"
  for package in "${packages[@]}"; do
    # A package list older than the archive names files that are gone.
    apt-get -o APT::Sandbox::User=root download -qq "$package" >&2 || { apt-get update -qq >&2 && apt-get -o APT::Sandbox::User=root download -qq "$package" >&2; }
    dpkg-deb -x "$package"_*.deb debian
  done
)
find "$dir"/building/debian/usr/{bin,sbin} -type f -exec mv -t "$dir/bin" {} + # not the links from one to the other
rm -rf "$dir/cni" && mv "$dir/building/debian/usr/lib/cni" "$dir/cni"
ldd "$dir/bin/runc" "$dir/bin/containerd" | sed -n 's/.*=> not found/&/p' | grep . >&2 && fail "no cluster: runc or containerd lacks these libraries"
rm -rf "$dir/building"
touch "$built"
echo "$dir"
