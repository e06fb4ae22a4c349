"""Measure every road between the formats and write docs/roads.md: `python -m docs.roads FOLDER [MODEL...]`.

What was measured before, of models that are not named now, is kept in docs/roads.json.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.zoo.cells import Outcome
from tests.zoo.roads import STARTS, SUFFIXES, Start, convert

PAGE = Path(__file__).with_name("roads.md")
RESULTS = PAGE.with_suffix(".json")
_HEAD = """<!-- made by `python -m docs.roads` from measurements: do not edit -->

# Every road between PyTorch, Keras, ONNX and TFLite

Models from packages on PyPI, and small networks trained here, to the three other formats, at their own precision, on
real inputs. Each cell: the engines of the route; SQNR of the worst output with the worst kernel set against the source
model in its own runtime; seconds and peak memory of the steps (one run, two cores: an order of magnitude, not
a benchmark). **open**: dimensions that the source leaves open are open in the result, and it was compared at a second
size too. **2nd**: an engine before this one failed, and hub went on. A code is a refusal: nothing was written. Engines
have their names of today: some were renamed, unchanged, since they were measured.

"""


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement.

    Attributes:
        word: `pass`, `mixed` or the error's code.
        engines: Titles of the steps.
        sqnr_db: Of the worst output.
        seconds: Of all steps.
        peak_mib: Of the hungriest step.
        open: Whether dimensions stay open.
        attempts: Routes given up before.
    """

    word: str
    engines: tuple[str, ...] = ()
    sqnr_db: float | None = None
    seconds: float = 0.0
    peak_mib: float = 0.0
    open: bool = False
    attempts: int = 0


def summarize(outcome: Outcome) -> Cell:
    """Keep what the page shows."""
    if outcome.status:
        return Cell(word=outcome.word, attempts=len(outcome.document["error"].get("attempts", [])))
    receipt = outcome.document
    steps: list[dict[str, Any]] = receipt["steps"]
    dims = [dim for spec in receipt["result"]["signature"]["inputs"] for dim in spec["shape"]]
    return Cell(
        word=outcome.word,
        engines=tuple(step["title"] for step in steps),
        sqnr_db=min(output["sqnr_db"] for output in receipt["parity"]["outputs"]),
        seconds=sum(step["seconds"] for step in steps),
        peak_mib=max(step["peak_memory_bytes"] for step in steps) / 2**20,
        open=any("symbol" in dim for dim in dims),
        attempts=len(receipt.get("failed_attempts", [])),
    )


def show(cell: Cell | None) -> str:
    """One cell in words."""
    if cell is None:
        return ""
    if not cell.engines:
        return f"`{cell.word}`"
    marks = [mark for mark, wanted in (("**open**", cell.open), ("**2nd**", cell.attempts > 0)) if wanted]
    figures = f"{cell.sqnr_db:.0f} dB, {cell.seconds:.1f} s, {cell.peak_mib:.0f} MiB"
    return "<br/>".join([" → ".join(cell.engines), figures, *([" ".join(marks)] if marks else [])])


def render(results: dict[str, dict[str, Cell]]) -> str:
    """The page: a table for each format to start from."""
    return _HEAD + "\n".join(_table(name, results) for name in SUFFIXES)


def _table(source: str, results: dict[str, dict[str, Cell]]) -> str:
    targets = [name for name in SUFFIXES if name != source]
    rows = [
        f"| {start.name} | {' | '.join(show(results.get(start.name, {}).get(target)) for target in targets)} |"
        for start in STARTS.values()
        if start.format == source
    ]
    head = f"## From {source}\n\n| model | {' | '.join(f'to {name}' for name in targets)} |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def kept() -> dict[str, dict[str, Cell]]:
    """What was measured before."""
    return msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, dict[str, Cell]]) if RESULTS.exists() else {}


def measure(start: Start, folder: Path) -> dict[str, Cell]:
    """Take a model to every other format, every step run anew."""
    return {target: summarize(convert(start, target, folder, "--no-cache")) for target in start.targets}


def main() -> None:
    """Measure, keep, write."""
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(STARTS)
    for name in names:
        results = kept() | {name: measure(STARTS[name], folder)}
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results, order="sorted"), indent=1) + b"\n")
        PAGE.write_text(render(results))
        print(name, {target: cell.word for target, cell in results[name].items()}, flush=True)


if __name__ == "__main__":
    main()
