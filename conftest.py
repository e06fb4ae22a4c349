"""For every test of the repository: the root is importable, and the zoo's fixtures are there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["tests.zoo.fixtures"]
