#!/usr/bin/env bash
# Prints the newest glibc that programs and libraries ask for, and fails if one asks for a newer one than MOST.
#
# Usage: glibc.sh MOST FILE…
set -euo pipefail
python3 - "$@" <<'PY'
import re
import sys

most, files = sys.argv[1], sys.argv[2:]
number = lambda version: tuple(map(int, version.split(".")))
for file in files:
    with open(file, "rb") as binary:
        asked = {version.decode() for version in re.findall(rb"GLIBC_(\d+(?:\.\d+)+)", binary.read())}
    newest = max(asked, key=number, default="0")
    print(f"{file}: needs glibc {newest}")
    if number(newest) > number(most):
        sys.exit(f"{file} needs glibc {newest}, and what is given away must run with {most}")
PY
