"""Measure real models and write docs/real-models.md: `python -m docs.real_models FOLDER [MODEL...]`.

What was measured before, of models that are not named now, is kept in docs/real-models.json.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.zoo.cells import CASES, PRECISIONS, Outcome, convert

PAGE = Path(__file__).with_name("real-models.md")
RESULTS = PAGE.with_suffix(".json")
_HEAD = """<!-- made by `python -m docs.real_models` from measurements: do not edit -->

# Real models, to TFLite

Models that nobody here trained, from packages on PyPI, and two small recurrent Keras networks; real inputs, other ones
for calibration than for the comparison. Each cell: SQNR and cosine of the worst output with the worst kernel set,
against the source model in its own runtime, and how many times smaller the file is. **mixed**: some layers stay in
float, named in the receipt. A code is a refusal: nothing was written (its figures are those of the last try). A blank
cell was not run.

"""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: the outcome's word, and figures where something was compared."""

    word: str
    sqnr_db: float | None = None
    cosine: float | None = None
    smaller: float | None = None


def summarize(outcome: Outcome) -> Cell:
    """Keep what the page shows."""
    if outcome.status:
        tried = [a["parity"] for a in outcome.document["error"].get("attempts", []) if a.get("parity")]
        return _cell(outcome.word, tried[-1], None) if tried else Cell(word=outcome.word)
    receipt = outcome.document
    return _cell(outcome.word, receipt["parity"], receipt["source"]["size_bytes"] / receipt["result"]["size_bytes"])


def _cell(word: str, parity: dict[str, Any], smaller: float | None) -> Cell:
    worst = min(parity["outputs"], key=lambda output: output["sqnr_db"])
    return Cell(word=word, sqnr_db=worst["sqnr_db"], cosine=worst["cosine"], smaller=smaller)


def show(cell: Cell | None) -> str:
    """One cell in words."""
    if cell is None:
        return ""
    word = {"pass": "", "mixed": "**mixed** "}.get(cell.word, f"`{cell.word}` ")
    figures = "" if cell.sqnr_db is None else f"{cell.sqnr_db:.1f} dB, {cell.cosine:.4f}"
    return f"{word}{figures}" + ("" if cell.smaller is None else f", {cell.smaller:.1f}x")


def render(results: dict[str, dict[str, Cell]]) -> str:
    """The page."""
    head = f"| model | {' | '.join(PRECISIONS)} |\n|{'---|' * (len(PRECISIONS) + 1)}\n"
    rows = [
        f"| {name}<br/>{case.what} | {' | '.join(show(results.get(name, {}).get(p)) for p in PRECISIONS)} |"
        for name, case in CASES.items()
    ]
    return _HEAD + head + "\n".join(rows) + "\n"


def main() -> None:
    """Measure, keep, write."""
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(CASES)
    for name in names:
        measured = {precision: summarize(convert(CASES[name], precision, folder)) for precision in PRECISIONS}
        kept = msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, dict[str, Cell]]) if RESULTS.exists() else {}
        kept[name] = measured
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(kept, order="sorted"), indent=1) + b"\n")
        PAGE.write_text(render(kept))
        print(name, {precision: cell.word for precision, cell in measured.items()}, flush=True)


if __name__ == "__main__":
    main()
