"""Write docs/backends.md from the results of `python -m benchmarks.backends`: `python -m docs.backends`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from hub._parity import POLICIES
from hub.spec import Numerics
from tests.zoo.backends import BACKENDS, MODELS

PAGE = Path(__file__).with_name("backends.md")
RESULTS = PAGE.with_suffix(".json")
QUIETER, FASTER = 0.5, 0.9
"""hub counts as worse where its SQNR is more than 0.5 dB lower, or its speed below 0.9 of the tool's: two timings of
the same file differ by as much."""
GOOD_ENOUGH = 60.0
"""dB: from here on, a difference in SQNR is none that anybody could use."""
SAME = 0.01  # dB


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One artifact: why there is none, or its figures.

    Attributes:
        error: The error's first words.
        sqnr_db: Of the worst output over all test samples, against the source in its own framework.
        cosine: Likewise.
        agreement: Share of answers that are the source's, where the model classifies.
        accuracy: Share of answers that are the label, where there are labels.
        smaller: Bytes of the float form / bytes of this.
        speedup: Time of the float form / time of this, both in this runtime: median over the rounds.
        seconds: What it took to make.
        said_slower: Whether hub said itself that the result is slower than float.
        claimed_db: The SQNR in hub's receipt.
        claimed_speedup: The speed-up in hub's receipt.
    """

    error: str = ""
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    smaller: float | None = None
    speedup: float | None = None
    seconds: float = 0.0
    said_slower: bool = False
    claimed_db: float | None = None
    claimed_speedup: float | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model in one backend: precision -> `hub` and `tool` -> figures."""

    cells: dict[str, dict[str, Cell]]
    float_ms: float
    source_ms: float
    source_accuracy: float | None = None
    timing: str = "two threads, wall time"


Results = dict[str, dict[str, Measured]]


class Pair(NamedTuple):
    """What hub and the tool come to in one cell."""

    model: str
    backend: str
    precision: str
    hub: Cell
    tool: Cell
    others: dict[str, Cell]  # the tool's at the other precisions

    @property
    def instead(self) -> str:
        """The precision that the tool gave instead of what was asked for: its results are the same to the last bits."""
        for precision in sorted({"fp32", "int8-weights"} - {self.precision}):
            other = self.others.get(precision, Cell()).sqnr_db
            if self.tool.sqnr_db and other and abs(self.tool.sqnr_db - other) < SAME:
                return precision
        return ""

    @property
    def tool_works(self) -> bool:
        """Whether the tool's file is of the precision that was asked for, runs, and still computes the model."""
        least = POLICIES[Numerics(self.precision)].sqnr_min_db or 0.0
        return self.tool.sqnr_db is not None and self.tool.sqnr_db >= least and not self.instead

    @property
    def worse(self) -> tuple[str, ...]:
        """In what hub's artifact is behind."""
        if not self.tool_works:
            return ()
        if self.hub.error:
            return ("hub has none",)
        found = ["accuracy"] if _quieter(self.tool) - _quieter(self.hub) > QUIETER else []
        return (*found, *(["speed"] if (self.hub.speedup or 0) < FASTER * (self.tool.speedup or 0) else []))

    @property
    def unsaid(self) -> bool:
        """Whether hub's artifact is slower than float and hub did not say so."""
        slower = self.hub.speedup is not None and self.hub.speedup < FASTER
        return slower and not self.hub.said_slower


def _quieter(cell: Cell) -> float:
    return min(GOOD_ENOUGH, cell.sqnr_db or 0.0)


def load() -> Results:
    """What was measured so far."""
    return msgspec.json.decode(RESULTS.read_bytes(), type=Results) if RESULTS.exists() else {}


def keep(model: str, backend: str, measured: Measured) -> None:
    """Put one measurement in place of the one before, and write the page."""
    results = load()
    results.setdefault(model, {})[backend] = measured
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results, order="sorted"), indent=1) + b"\n")
    PAGE.write_text(render(results))


def pairs(results: Results) -> Iterator[Pair]:
    """Every cell of every model."""
    for backend, offered in BACKENDS.items():
        for model in MODELS:
            measured = results.get(model, {}).get(backend)
            for precision in offered.precisions if measured else ():
                cells = measured.cells if measured else {}
                cell = cells.get(precision, {})
                others = {name: both["tool"] for name, both in cells.items() if "tool" in both}
                yield Pair(model, backend, precision, cell.get("hub", Cell()), cell.get("tool", Cell()), others)


def in_a_line(measured: Measured) -> str:
    """Errors and SQNR of every cell, for whoever waits."""
    words = [
        f"{precision} {who} {cell.error[:60] or f'{cell.sqnr_db:.1f} dB {cell.speedup:.2f}x'}"
        for precision, cells in measured.cells.items()
        for who, cell in cells.items()
    ]
    return "; ".join(words)


_HEAD = """<!-- made by `python -m docs.backends` from measurements: do not edit -->

# ONNX Runtime and OpenVINO: hub against the tools' defaults

Every cell: **hub's artifact** / the artifact of the backend's own tool with every setting left alone, made of the same
model and the same calibration data, measured in the same process on the bare runtime with its own defaults and two
threads where nothing else is said (`benchmarks/backends.py`; nothing of hub takes part in the measuring).

* **SQNR**: of the worst output over all test samples, dB, against the source model in its own framework.
* **right**: accuracy on labels (digits, 400 test images), else the share of answers that are the source's.
* **smaller**, **faster**: against the float form in the same backend; faster is the median over rounds in which all
  models take turns.
* The tools: `convert_float_to_float16`, `quantize_dynamic`, `quantize_static`, `MatMulNBitsQuantizer`; `save_model`
  (which compresses to fp16), `nncf.compress_weights`, `nncf.quantize`, `compress_weights(mode=INT4_SYM)`. They get the
  ONNX model, or what PyTorch's or Keras' exporter makes of the source.
* `-`: there is no artifact, or it does not run: the reasons are below the table. ~~Struck out~~: worse than hub's
  gate for this precision, no model any more, or not that precision at all.

"""


def render(results: Results) -> str:
    """The page."""
    parts = [_HEAD, _summary(list(pairs(results)))]
    for backend in BACKENDS:
        found = [pair for pair in pairs(results) if pair.backend == backend]
        if found:
            parts.append(_table(backend, found, results))
    return "\n".join(parts)


def _summary(found: list[Pair]) -> str:
    both = [pair for pair in found if pair.tool_works]
    only = [pair for pair in found if not pair.tool_works and not pair.hub.error]
    behind = [pair for pair in both if pair.worse]
    unsaid = [pair for pair in found if pair.unsaid]
    counts = (
        f"The tool's defaults give a working model in {len(both)} of {len(found)} cells, hub in {len(only)} more."
        f" hub is behind the tool in {len(behind)}:"
    )
    lines = [
        counts,
        "",
        *(f"* {pair.model}, {pair.backend} {pair.precision}: {', '.join(pair.worse)}" for pair in behind),
        "",
        f"Slower than float without a word from hub: {len(unsaid)}.",
        *(f"* {pair.model}, {pair.backend} {pair.precision}: {pair.hub.speedup:.2f}x" for pair in unsaid),
        "",
        *_not_run({(pair.model, pair.backend) for pair in found}),
    ]
    return "\n".join(lines)


def _not_run(found: set[tuple[str, str]]) -> Iterator[str]:
    missing = [f"{model} ({backend})" for backend in BACKENDS for model in MODELS if (model, backend) not in found]
    if missing:
        yield f"Not run yet: {', '.join(missing)}."
        yield ""


def _table(backend: str, found: list[Pair], results: Results) -> str:
    head = ["model", "precision", "SQNR dB", "right", "smaller", "faster"]
    lines = [f"## {backend}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [_row(pair, results[pair.model][backend]) for pair in found]
    reasons = [
        f"* {pair.model} {pair.precision}, {who}: {_inline(cell.error)}"
        for pair in found
        for who, cell in (("hub", pair.hub), ("tool", pair.tool))
        if cell.error
    ]
    return "\n".join([*lines, "", *reasons, ""])


def _inline(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").replace("|", "/").split()) + "`"


def _row(pair: Pair, measured: Measured) -> str:
    first = next(iter(BACKENDS[pair.backend].precisions)) == pair.precision
    note = f"<br/>(the tool gives {pair.instead})" if pair.instead else ""
    facts = [f"float {measured.float_ms:.2g} ms"]
    facts += [] if measured.timing.startswith("two") else [measured.timing]
    facts += [] if measured.source_accuracy is None else [f"source {measured.source_accuracy:.2%} right"]
    name = f"{pair.model}<br/>{', '.join(facts)}" if first else ""

    def cell(figure: Callable[[Cell], float | None], form: str) -> str:
        return f"**{_shown(pair.hub, figure, form)}** / {_struck(pair, _shown(pair.tool, figure, form))}"

    figures = [
        cell(lambda c: c.sqnr_db, ".1f"),
        cell(lambda c: c.agreement if c.accuracy is None else c.accuracy, ".2%"),
        cell(lambda c: c.smaller, ".1f"),
        cell(lambda c: c.speedup, ".2f"),
    ]
    return f"| {name} | {pair.precision}{note} | {' | '.join(figures)} |"


def _shown(cell: Cell, figure: Callable[[Cell], float | None], form: str) -> str:
    value = figure(cell)
    return "-" if value is None or cell.error else f"{value:{form}}"


def _struck(pair: Pair, text: str) -> str:
    return text if pair.tool_works or text == "-" else f"~~{text}~~"


if __name__ == "__main__":
    PAGE.write_text(render(load()))
