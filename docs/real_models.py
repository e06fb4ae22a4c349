"""Run every real model at every precision and write docs/real-models.md: `python -m docs.real_models [FOLDER]`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.zoo.cells import CASES, PRECISIONS, Outcome, convert

PAGE = Path(__file__).with_name("real-models.md")
_HEAD = """<!-- made by `python -m docs.real_models` from measurements: do not edit -->

# Real models, to TFLite

Models that nobody here trained, from packages on PyPI, and two small recurrent Keras networks; real inputs, other ones
for calibration than for the comparison. Each cell: SQNR and cosine of the worst output with the worst kernel set,
against the source model in its own runtime, and the size against the source's. **mixed**: some layers stay in float,
named in the receipt. A code is a refusal: nothing was written.

"""


def cell(outcome: Outcome) -> str:
    """One cell in words."""
    if outcome.status:
        parities = [a["parity"] for a in outcome.document["error"].get("attempts", []) if a.get("parity")]
        return f"`{outcome.word}`" + (f" ({_worst(parities[-1])})" if parities else "")
    receipt = outcome.document
    ratio = receipt["source"]["size_bytes"] / receipt["result"]["size_bytes"]
    mixed = "**mixed** " if outcome.word == "mixed" else ""
    return f"{mixed}{_worst(receipt['parity'])}, {ratio:.1f}x"


def _worst(parity: dict[str, Any]) -> str:
    worst = min(parity["outputs"], key=lambda output: output["sqnr_db"])
    return f"{worst['sqnr_db']:.1f} dB, {worst['cosine']:.4f}"


def main() -> None:
    """Measure and write."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="hub-real-"))
    rows, results = [], {}
    for name, case in CASES.items():
        outcomes = {precision: convert(case, precision, folder) for precision in PRECISIONS}
        results[name] = {precision: outcome.document for precision, outcome in outcomes.items()}
        rows.append(f"| {name}<br/>{case.what} | " + " | ".join(map(cell, outcomes.values())) + " |")
        print(rows[-1], flush=True)
    head = f"| model | {' | '.join(PRECISIONS)} |\n|{'---|' * (len(PRECISIONS) + 1)}\n"
    PAGE.write_text(_HEAD + head + "\n".join(rows) + "\n")
    (folder / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
