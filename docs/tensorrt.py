"""Real models to TensorRT: `python -m docs.tensorrt MODEL ...` measures; without names it writes the page anew.

Cells that were measured are not measured again, but for those that are named (`ocr-det:int8`) and with `--anew`: a run
that was cut off is gone on with by the same command.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hub.spec import Numerics
from hub_tensorrt.report import read_report
from tests.zoo.backends import MODELS, convert
from tests.zoo.cells import Case, Outcome

PAGE = Path(__file__).with_name("tensorrt.md")
RESULTS = PAGE.with_suffix(".json")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-mixed", "fp8", "int4-weights")


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One engine, or why there is none.

    Attributes:
        error: The error's code and first words.
        numerics: What the engine is in.
        level: `aot-built` where nobody ran it.
        sqnr_db: Of the precision ONNX in ONNX Runtime, of the worst output.
        weights_bytes: On the device, as the builder says.
        multiplied_in: Precision -> operators that multiply in it, as the builder reports its layers.
        built_for: Compute capabilities.
        seconds: What the whole conversion took.
    """

    error: str = ""
    numerics: Numerics = Numerics.FP32
    level: str = ""
    sqnr_db: float | None = None
    weights_bytes: int = 0
    multiplied_in: dict[str, int] = {}
    built_for: tuple[str, ...] = ()


Results = dict[str, dict[str, Cell]]


def cell_of(outcome: Outcome, engine: Path) -> Cell:
    """The figures of one conversion."""
    document: dict[str, Any] = outcome.document
    if outcome.status:
        error = document["error"]
        return Cell(error=f"{error['code']}: {error['message'][:300]}")
    report, built = read_report(engine), document["not_run"]
    measured = [row["sqnr_db"] for row in built.get("parity", {}).get("outputs", ())]
    return Cell(
        numerics=report.numerics,
        level=document["level"],
        sqnr_db=min(measured) if measured else None,
        weights_bytes=report.weights_bytes,
        multiplied_in=report.multiplied_in,
        built_for=report.built_for,
    )


def build(case: Case, precision: str, folder: Path) -> Cell:
    """Convert one real model at one precision."""
    engine = folder / case.name / f"{case.name}.{precision}.engine"
    engine.parent.mkdir(parents=True, exist_ok=True)
    return cell_of(convert(case, "tensorrt", precision, engine), engine)


def load() -> Results:
    """What was measured."""
    return msgspec.json.decode(RESULTS.read_bytes(), type=Results) if RESULTS.exists() else {}


def measure(names: Sequence[str], folder: Path, *, anew: bool) -> None:
    """Build engines of some models, `ocr-det` or `ocr-det:int8`, and keep the figures."""
    for name, _, one in (word.partition(":") for word in names):
        known = {} if anew or one else load().get(name, {})
        for precision in (one,) if one else (word for word in PRECISIONS if word not in known):
            cell = build(MODELS[name], precision, folder)
            results = load()
            results.setdefault(name, {})[precision] = cell
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
            sys.stderr.write(f"{name} {precision}: {cell}\n")


HEAD = """<!-- made by docs/tensorrt.py of docs/tensorrt.json: change those, not this page -->

# Real models in TensorRT

Engines that TensorRT-RTX {version} built on a machine without a GPU, of models that nobody here trained.

**No engine of this page was run.** What was run is the ONNX model that each was built of, its *precision model*, in
ONNX Runtime on the CPU, against the source in its own framework: *SQNR* is that of the worst output. *Multiplies in*
counts the operators that multiply by the precision in which the builder reports their layers, and *weights* is the
memory that it says they take on the device. No speed is said, since no GPU has shown one: TensorRT-RTX's int8
convolutions give floats that a second kernel quantizes again.

On a GPU the same command runs the engine, holds it to the gate and times it (`device-run` in the receipt). Those cells
are not run here and none of them is a tick. [How to](tensorrt-howto.md).

| model | precision | engine | SQNR of the precision model | multiplies in | weights |
|---|---|---|---|---|---|
"""


def rows(results: Mapping[str, Mapping[str, Cell]]) -> Iterator[str]:
    """The table, line by line."""
    for name, cells in sorted(results.items()):
        for precision, cell in sorted(cells.items(), key=lambda item: PRECISIONS.index(item[0])):
            if cell.error:
                yield f"| {name} | {precision} | refused: {_plain(cell.error)} | | | |"
                continue
            counts = ", ".join(f"{count} {word}" for word, count in cell.multiplied_in.items())
            what = "built" if cell.numerics.value == precision else f"built as {cell.numerics.value}"
            sqnr = "" if cell.sqnr_db is None else f"{cell.sqnr_db:.1f} dB"
            weights = f"{cell.weights_bytes / 2**20:.2f} MiB"
            yield f"| {name} | {precision} | {what}, not run | {sqnr} | {counts} | {weights} |"


def _plain(text: str) -> str:
    first = text.rsplit("Tried ", maxsplit=1)[-1]
    return first.replace("|", "/").replace("\n", " ").replace("<", "&lt;")[:220]


def render(results: Mapping[str, Mapping[str, Cell]]) -> str:
    """The page."""
    from importlib.metadata import version

    return HEAD.replace("{version}", version("tensorrt-rtx-cu13")) + "\n".join(rows(results)) + "\n"


def main() -> None:
    """Measure what is named, and write the page."""
    names = [word for word in sys.argv[1:] if word != "--anew"] or (list(MODELS) if "--anew" in sys.argv else [])
    if names:
        with tempfile.TemporaryDirectory(prefix="hub-tensorrt-") as folder:
            measure(names, Path(folder), anew="--anew" in sys.argv)
    PAGE.write_text(render(load()))


if __name__ == "__main__":
    main()
