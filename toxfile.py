"""tox reads this file: its environments install as `dev.py` does, however tox is called."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import dev

os.environ |= dev.sources([sys.executable, "-m", "uv"])
