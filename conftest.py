"""For every test of the repository: the root is importable, the zoo's fixtures are there, no frameworks clash."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# triton comes with torch's CUDA build, for GPU kernels that hub never asks for; torch's exporter imports it where it is
# there. In a process that holds TensorFlow that is a segmentation fault (TensorFlow 2.21, triton 3.7). Test processes
# share frameworks as hub's workers never do, so to them it is not there.
sys.modules["triton"] = None  # type: ignore[assignment]

pytest_plugins = ["tests.zoo.fixtures"]
