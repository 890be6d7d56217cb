#!/usr/bin/env python3
"""A base image's files: glibc, the C++ library and the certificates of Debian, and nothing that could be run.

What `make release` builds brings its own C++ library; what a machine's own compiler built (`make build`) asks for Debian's.

    base.py ARCHITECTURE OUT.tar PACKAGES     ARCHITECTURE: amd64 or arm64; PACKAGES gets a line `name version architecture` for each

mmdebstrap unpacks Debian's packages (no emulator is needed, as none of their programs runs); of them the few files are taken.
"""

import gzip
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SUITE = "bookworm"
LIBRARIES = r"(?:ld-linux[\w-]*\.so\.\d|lib(?:c|m|dl|rt|pthread|resolv|util|nss_dns|nss_files|gcc_s)\.so\.\d)"
WANTED = re.compile(
    rf"(?:lib64/ld-linux[^/]*|lib/ld-linux[^/]*|(?:usr/)?lib/[a-z0-9_]+-linux-gnu/{LIBRARIES}"
    r"|usr/lib/[a-z0-9_]+-linux-gnu/libstdc\+\+\.so\.6[.0-9]*|usr/share/doc/libstdc\+\+6"
    r"|usr/share/doc/(?:libc6|gcc-12-base|ca-certificates)/copyright|usr/share/doc/libgcc-s1)"
)
CERTIFICATE = re.compile(r"usr/share/ca-certificates/mozilla/.+\.crt")
CHANGELOG = re.compile(r"usr/share/doc/(libc6|gcc-12-base|ca-certificates)/changelog(?:\.Debian)?\.gz")
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\nforebay:x:10001:10001:forebay:/:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n",
    "etc/group": "root:x:0:\nforebay:x:10001:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def unpacked(architecture: str, tar: Path):
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--arch={architecture}", "--include=libc6,libstdc++6,ca-certificates", SUITE, str(tar)]
    if not shutil.which(command[0]):
        raise SystemExit("base.py: mmdebstrap is not here: install it (apt-get install mmdebstrap), or give images.sh a base image")
    subprocess.run(command, check=True)


def main():
    architecture, out, listing = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "debian.tar"
        unpacked(architecture, whole)
        certificates, taken, packages = [], [], []
        with tarfile.open(whole) as debian, tarfile.open(out, "w") as base:
            for member in debian:
                name = member.name.removeprefix("./").rstrip("/")
                if CERTIFICATE.fullmatch(name):
                    certificates.append((name, debian.extractfile(member).read()))
                elif (changelog := CHANGELOG.fullmatch(name)) and member.isfile():
                    first = gzip.decompress(debian.extractfile(member).read()).split(b"\n", 1)[0].decode()
                    if version := re.match(r"[a-z0-9+.-]+ \((.+?)\) ", first):  # and not the one of who made it
                        packages.append(f"{changelog[1]} {version[1]} {architecture}")
                elif WANTED.fullmatch(name):
                    member.name = name
                    member.mtime = 0
                    base.addfile(member, debian.extractfile(member) if member.isfile() else None)
                    taken.append(name)
            texts = {name: text.encode() for name, text in TEXTS.items()}
            texts["etc/ssl/certs/ca-certificates.crt"] = b"".join(text.rstrip() + b"\n" for _, text in sorted(certificates))
            for name, text in texts.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(text), 0o644
                base.addfile(member, io.BytesIO(text))
    listing.write_text("".join(f"{package}\n" for package in sorted(packages)))
    if len(certificates) < 100 or len(packages) != 3 or not any("libc.so.6" in name for name in taken):
        raise SystemExit(f"base.py: Debian's packages are not laid out as expected: {len(certificates)} certificates, {packages}, {taken}")


if __name__ == "__main__":
    main()
