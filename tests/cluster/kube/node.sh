#!/usr/bin/env bash
# One node of the cluster, run inside its namespaces by cluster.py: containerd and kubelet in a mount namespace of their own, so that
# each node has its own /run, /var/log and /var/lib/kubelet. Ends with the kubelet; containerd and the pods stay.
#
#   node.sh NUMBER       with DIR, PROGRAMS and CGROUP in the environment
set -euo pipefail

number=$1 node=n$1
here=$(cd "$(dirname "$0")" && pwd)
if [ "${2:-}" != inside ]; then
  exec unshare --mount --propagation private bash "$0" "$number" inside
fi
# From here down only: asking unshare for shared mounts would join the other nodes' peer group and mix their pods' files.
mount --make-rshared /
mkdir -p "$DIR/$node"/{kubelet,containerd,log,cni}
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$DIR/$node/kubelet" /var/lib/kubelet
mount --bind "$DIR/$node/log" /var/log
mkdir -p /run/containerd /run/netns

# Real file systems, at the same places on each node: a directory of the machine's root would be something else to a server.
for disk in 1 2 3 4 5 6; do
  place=$DIR/disks/$disk image=$DIR/$node/disk-$disk.img
  truncate -s 2G "$image"
  mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard "$image"
  mount -o loop,noatime "$image" "$place"
  rmdir "$place/lost+found"
  chmod 777 "$place"
done

[ "$number" = 1 ] || { ip addr add "10.88.0.$number/16" dev cni0; ip addr add "fd00:88::$number/64" dev cni0 nodad; }
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then # version 2
  mkdir -p "/sys/fs/cgroup/$CGROUP-$node"
  for controller in cpuset cpu io memory pids; do
    echo "+$controller" | tee /sys/fs/cgroup/cgroup.subtree_control "/sys/fs/cgroup/$CGROUP-$node/cgroup.subtree_control" >/dev/null
  done
else
  for hierarchy in /sys/fs/cgroup/*/; do
    [ ! -e "$hierarchy/cgroup.controllers" ] || continue
    mkdir -p "$hierarchy$CGROUP-$node"
    [ ! -e "$hierarchy/cpuset.cpus" ] || for file in cpuset.cpus cpuset.mems; do
      cat "$hierarchy/$file" >"$hierarchy$CGROUP-$node/$file"
    done
    # A group counts as one process beside those of the machine that are in none, and this one is a whole node.
    [ ! -e "$hierarchy/cpu.shares" ] || echo 8192 >"$hierarchy$CGROUP-$node/cpu.shares"
  done
fi

fill() { # TEMPLATE FILE
  sed -e "s#@DIR@#$DIR#g" -e "s#@PROGRAMS@#$PROGRAMS#g" -e "s#@CGROUP@#$CGROUP#g" -e "s#@NODE@#$node#g" -e "s#@NUMBER@#$number#g" \
    "$here/settings/$1" >"$DIR/$node/$2"
}
fill containerd.toml containerd.toml
fill kubelet.yaml kubelet.yaml
fill cni.json cni/pods.conflist
containerd -c "$DIR/$node/containerd.toml" >"$DIR/log/$node-containerd.log" 2>&1 &
ctr() { command ctr -a "$DIR/$node/containerd.sock" -n k8s.io "$@"; }
for _ in $(seq 600); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
for image in "$DIR"/images/*.tar; do ctr images import "$image" >/dev/null; done
# Started again by cluster.py after a kill; the loop's end is the node's.
while :; do
  rm -f "$DIR/$node/stopped"
  kubelet --config="$DIR/$node/kubelet.yaml" --kubeconfig="$DIR/kubelet-$node.conf" --hostname-override="$node" \
    --node-ip="10.88.0.$number,fd00:88::$number" --root-dir=/var/lib/kubelet --v=2 || true
  touch "$DIR/$node/stopped"
  while [ -e "$DIR/$node/stopped" ]; do sleep 0.2; done
done
