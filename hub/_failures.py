"""What is kept of a failed step: its log, its job, its inputs, and a script that runs it again."""

import os
import re
import shutil
import time
from pathlib import Path

from hub._store import Store
from hub._workers import Place

_REPRODUCE = '''"""Runs one failed step again, alone: python reproduce.py. Its job is job.json, its log log.txt."""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent.resolve()
AGAIN = HERE / "again"
shutil.rmtree(AGAIN, ignore_errors=True)
for name in ("out", "scratch"):
    (AGAIN / name).mkdir(parents=True)
for name in ("in", "data"):
    if (HERE / name).is_dir():
        shutil.copytree(HERE / name, AGAIN / name)
job = (HERE / "job.json").read_text()
for old, new in {moves!r}.items():
    job = job.replace(old, str(AGAIN / new))
(AGAIN / "job.json").write_text(job)
environment = os.environ | {environment!r}
sys.exit(subprocess.call([{python!r} or sys.executable, "-P", "-m", "hub._worker", str(AGAIN)], env=environment))
'''


def keep_failed(store: Store, scratch: Path, folder: Path, place: Place) -> Path:
    """Move a failed step's folder to where a person can look at it; returns that place.

    Args:
        store: The cache.
        scratch: The run's folder. Other step folders in it that the job names (samples) are kept as `data/`.
        folder: The step's folder in `scratch`.
        place: The process that ran it.
    """
    moves = {str(folder): ""} | _keep_data(scratch, folder)
    script = _REPRODUCE.format(moves=moves, environment=dict(place.environment), python=place.python)
    (folder / "reproduce.py").write_text(script)
    named = folder.with_name(f"{time.strftime('%Y%m%d-%H%M%S')}-{scratch.name}-{folder.name}")
    folder.rename(named)
    return store.keep_failed(named)


def _keep_data(scratch: Path, folder: Path) -> dict[str, str]:
    """Link the folders of this run that the job names into the step's own; returns where each went."""
    job = (folder / "job.json").read_text()
    numbers = set(re.findall(rf"{re.escape(str(scratch))}/(\d+)", job)) - {folder.name}
    for number in sorted(numbers):
        shutil.copytree(scratch / number, folder / "data" / number, copy_function=os.link)
    return {str(scratch / number): f"data/{number}" for number in sorted(numbers)}
