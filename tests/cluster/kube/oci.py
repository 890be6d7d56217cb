"""Writes OCI image archives without a container engine: what `ctr images import` and a kubelet take.

One layer, made of folders and of this machine's programs with the libraries that they are linked to. Owners are root, times zero:
the same files give the same bytes.
"""

import gzip
import hashlib
import io
import json
import platform
import re
import subprocess
import tarfile
from pathlib import Path

OCI = "application/vnd.oci.image."


def write(
    archive: Path,
    name: str,  # with a tag, which must not be `latest`: a kubelet would want to pull it
    folder: Path | None = None,  # whose entries are the image's root
    programs: dict[str, Path] | None = None,  # place in the image: file of this machine
    **config,  # as the image specification has them: Entrypoint, Env, User…
):
    layer = _layer(folder, programs or {})
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    described = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": OCI + kind, "digest": f"sha256:{digest}", "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": blob(json.dumps(described).encode(), "config.v1+json"),
        "layers": [blob(gzip.compress(layer, 1, mtime=0), "layer.v1.tar+gzip")],
    }
    index = blob(json.dumps(manifest).encode(), "manifest.v1+json") | {
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]},
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [index]}).encode(),
        **{f"blobs/sha256/{digest}": data for digest, data in blobs.items()},
    }
    with tarfile.open(archive, "w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def named(archive: Path, source: Path, name: str):
    """Copies an image archive under another name."""
    with tarfile.open(source) as old, tarfile.open(archive, "w") as new:
        for member in old:
            data = old.extractfile(member).read() if member.isfile() else b""
            if member.name.removeprefix("./") == "index.json":
                index = json.loads(data)
                for manifest in index["manifests"]:
                    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
                data = json.dumps(index).encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def _layer(folder: Path | None, programs: dict[str, Path]) -> bytes:
    places: dict[str, Path] = {}
    for place, file in programs.items():
        places[place] = file
        linked = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        places.update((library, Path(library)) for library in re.findall(r"(/\S+) \(0x", linked))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(folder.iterdir()) if folder else []:
            tar.add(entry, arcname=entry.name, filter=_anonymous)
        for place, file in sorted(places.items()):
            tar.add(file.resolve(), arcname=place.lstrip("/"), filter=_anonymous)
    return raw.getvalue()


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info
