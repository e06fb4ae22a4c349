"""Side by side with the bare tools, in pairs, printing ratios: `python benchmarks/run.py [help|convert|repeat] [N]`.

Each pair runs A then B, so that both see the same weather; the ratio A/B is taken pair by pair and its median quoted.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "samples" / "digits_torch"


class Cost(NamedTuple):
    """One run of a command: wall seconds, CPU seconds of all its processes, peak resident MiB of the largest."""

    wall: float
    cpu: float
    peak: float


def cost(command: list[str], cache: Path) -> Cost:
    """Run a command and its children to the end.

    Raises:
        RuntimeError: It failed; a benchmark of a failure means nothing.
    """
    start = time.perf_counter()
    pid = os.fork()
    if not pid:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.execvpe(command[0], command, os.environ | {"HUB_CACHE_DIR": str(cache)})  # noqa: S606 no shell is wanted
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{command} failed with status {status}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def pairs(name: str, first: list[str], second: list[str], count: int, *, fresh: bool) -> None:
    """Print the ratios first/second over `count` pairs after one warm-up pair."""
    ratios: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for number in range(count + 1):
            if fresh:
                shutil.rmtree(cache, ignore_errors=True)
            a, b = cost(first, cache), cost(second, cache)
            ratios += [Cost(*(x / y for x, y in zip(a, b, strict=True)))] if number else []
    for figure in Cost._fields:
        values = sorted(getattr(ratio, figure) for ratio in ratios)
        low, middle, high = values[0], statistics.median(values), values[-1]
        print(f"{name:<10} {figure:<5} ratio {middle:.3f} (min {low:.3f}, max {high:.3f}, {count} pairs)", flush=True)


def main() -> None:
    """Run the benchmarks that were asked for."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else "all"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5  # noqa: PLR2004 the second word
    hub = str(Path(sys.executable).with_name("hub"))
    scratch = tempfile.mkdtemp()
    convert = [hub, "convert", str(SAMPLES / "digits.pt2"), "--to", "tflite", "--int8", "--force", "-q"]
    convert += ["--calibration", str(SAMPLES / "calibration.npz"), "--test", str(SAMPLES / "test.npz")]
    convert += ["-o", str(Path(scratch) / "hub.tflite")]
    bare = [sys.executable, str(HERE / "bare_torch_int8.py"), scratch]
    if chosen in {"help", "all"}:
        pairs("help", [hub, "--help"], [sys.executable, "-c", "import pluggy, click"], count * 4, fresh=False)
    if chosen in {"convert", "all"}:
        pairs("convert", convert, bare, count, fresh=True)
    if chosen in {"repeat", "all"}:
        pairs("repeat", convert, bare, count, fresh=False)


if __name__ == "__main__":
    main()
