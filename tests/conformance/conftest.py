"""Makes the harness of the Spark tests known, as the scripts here do for themselves."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "spark"))
