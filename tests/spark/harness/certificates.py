"""Certificates of an authority of a test's own, made by openssl."""

import subprocess
from pathlib import Path

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Authority:
    def __init__(self, folder: Path):
        self.folder = folder
        self.cert = folder / "ca.crt"
        self._openssl("req", "-x509", *KEY, "-keyout", folder / "ca.key", "-out", self.cert, "-days", "2", "-subj", "/CN=an authority of a test")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate for this name, and of its key."""
        cert, key, request, extensions = (self.folder / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
        self._openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName=DNS:{name}\n")
        signer = ["-CA", self.cert, "-CAkey", self.folder / "ca.key", "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", extensions, "-out", cert)
        return cert, key

    def _openssl(self, *words):
        done = subprocess.run(["openssl", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
