"""Run a converter that is a program of its own, inside a step."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hub.spec.edges import ConvertJob
from hub.spec.errors import DependencyMissing, StepError

_TOLD_LINES = 5
"""Lines of a failed program's output that its message quotes: what went wrong stands at the end."""


def cache_root() -> Path:
    """Folder of hub's cache: $HUB_CACHE_DIR, or the platform's place for caches. A plugin's goes below it."""
    import platformdirs

    return Path(os.environ.get("HUB_CACHE_DIR") or platformdirs.user_cache_path("hub"))


def run_tool(command: Sequence[str | Path], folder: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; its output goes into the step's log. The step's time-out ends it too.

    Args:
        command: The program and its arguments; never a shell line.
        folder: Where it runs: `job.scratch`, or a folder below it.
        environment: Variables besides the worker's own.

    Returns:
        Everything that it printed, standard output and error in the order they came.

    Raises:
        DependencyMissing: There is no such program.
        StepError: It ended with another status than 0, or was killed by a signal.
    """
    words = [str(word) for word in command]
    if not shutil.which(words[0]):
        raise DependencyMissing(f"there is no program {words[0]} on PATH", hint=f"install it, then try: {words[0]} -h")
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    print(f"$ {' '.join(words)}\n{done.stdout}", flush=True)  # noqa: T201 into the step's log
    if done.returncode:
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        said = " | ".join([line.strip() for line in done.stdout.splitlines() if line.strip()][-_TOLD_LINES:])
        raise StepError(
            f"{Path(words[0]).name} {how}: {said or 'it printed nothing'}", hint="the step's log has it all"
        )
    return done.stdout


def private_copy(job: ConvertJob) -> Path:
    """Copy the source into the step's scratch folder, for a tool that writes beside its input or over it.

    Side files come along: everything beside the source whose name starts with its stem.

    Returns:
        The copy, under the source's own name.
    """
    source, scratch = Path(job.source.path), Path(job.scratch)
    beside = [source] if source.is_dir() else sorted(source.parent.glob(f"{source.stem}*"))
    for file in beside:
        if file.is_dir():
            shutil.copytree(file, scratch / file.name)
        else:
            shutil.copy2(file, scratch / file.name)
    return scratch / source.name
