"""The page of what the verdict catches, from docs/verdict.json: `python -m docs.verdict`.

`python -m tests.faults.curve FOLDER...` measures those figures anew.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

PAGE = Path(__file__).with_name("verdict.md")
FIGURES = PAGE.with_suffix(".json")
FACTORS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)

_HEAD = """<!-- made by `python -m docs.verdict` from docs/verdict.json: do not edit -->

# What the verdict catches

A gate is worth what it catches of faults, and what it leaves alone of sound artifacts. Into each of {artifacts} sound
artifacts, of {models} models, faults were planted one at a time as converters and quantizers make them: weights 1 % or
5 % off, a channel zeroed, doubled, negated or in another's place, a kernel turned, large weights that wrap around, a
bias left out, 10 % off or swapped, a range halved or quartered, an operator taken for its relative. Of {tried} mutants
{equivalents} are no faults and are not counted: their outputs are the sound artifact's, on real samples and on noise,
or nearer to them than a tenth of the rounding noise. {faults} are left. A fault counts as caught where the artifact is
refused, or where the user is told of the layer.

"""
_TABLE = """## By precision and backend

First the {tuned} artifacts of models on which the bounds were chosen ({tuned_models}),
then the {held_out} of small networks of usual kinds, trained on digits. These were held out until decision 82; then
the check was mended by what they showed, and two bounds were chosen on them too (25 dB at dynamic integers, a fifth of
a layer's size for a moved bias). So they are seen, and no row here is of models that nothing was chosen on.
{first}

*Code*: the last decision in force when the row was measured; rows of 81 were not measured with what came after.

*Outputs*: what the gate of the outputs catches alone. *With layers*: with the check layer by layer, which `--fast`
leaves out. *False alarms*: sound artifacts that are refused.

| models | precision | backend | code | artifacts | faults | outputs | with layers | false alarms | layers compared |
|---|---|---|---|---|---|---|---|---|---|
"""
_CURVE = """
## When the bounds are scaled

All bounds, as amplitudes, times a factor: 0.5 allows half of the error that hub does, 2 twice as much. In each cell the
share of faults caught, and behind the stroke that of sound artifacts refused. What is counted (rows whose class is
another, values that a range cuts off) is not scaled. That a constant is half a step from the float one at most is no
choice but what rounding is, so that below 1 sound artifacts are refused.

| precision | {factors} |
|---|{line}
"""
_KINDS = """
## By kind of fault

| fault | planted | outputs | with layers |
|---|---|---|---|
"""
_TAIL = """
Measured with `python -m tests.faults.curve`; a part of it, with a floor, is tested with every change.
"""


TUNED_ON = frozenset({"digits-torch", "digits-keras", "digits-lstm", "emotion", "ocr-cls", "vad-onnx"})
"""Models on whose artifacts the bounds of the verdict were chosen; the others on the page were seen since."""

_FIRST = """When such were scored first, with everything as it was, 477 of 505 faults were caught in 42 artifacts,
and 6 sound ones were refused: [decision 82](adr/0082-held-out-models.md) says what that was, and how it was mended."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: how much of what is allowed its outputs and its layers are off, and whether the user is told of it."""

    kind: str
    outputs: float
    layers: float
    told: bool

    def caught(self, factor: float = 1.0) -> bool:
        """With all bounds scaled."""
        return self.told or max(self.outputs, self.layers) > factor


DECISION = 90
"""The last decision that the verdict's code follows: what is measured now is measured with it."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One sound artifact, likewise, the faults that were planted into it, and the decision that the code followed."""

    model: str
    backend: str
    precision: str
    outputs: float
    layers: float
    compared: str
    equivalents: int
    faults: tuple[Fault, ...]
    decision: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is."""
        return self.precision, self.backend, self.model

    def refused(self, factor: float = 1.0) -> bool:
        """Falsely, with all bounds scaled."""
        return max(self.outputs, self.layers) > factor


def read_figures() -> list[Artifact]:
    """What was measured."""
    return msgspec.json.decode(FIGURES.read_bytes(), type=list[Artifact]) if FIGURES.exists() else []


def _share(hits: Iterable[bool]) -> str:
    every = list(hits)
    return f"{sum(every) / len(every):.1%}" if every else ""


def _row(name: str, items: Sequence[Artifact]) -> str:
    faults = [fault for item in items for fault in item.faults]
    outputs, caught = _share(fault.outputs > 1 for fault in faults), _share(fault.caught() for fault in faults)
    compared, every = (sum(int(item.compared.split("/")[place]) for item in items) for place in (0, 1))
    alarms = sum(item.refused() for item in items)
    code = ", ".join(str(number) for number in sorted({item.decision for item in items}))
    first = f"{name} | {code} | {len(items)} | {len(faults)}"
    return f"| {first} | {outputs} | {caught} | {alarms} | {compared} of {every} |\n"


def render(items: Sequence[Artifact]) -> str:
    """The page."""
    faults = [fault for item in items for fault in item.faults]
    equivalents = sum(item.equivalents for item in items)
    page = _HEAD.format(
        artifacts=len(items),
        models=len({item.model for item in items}),
        tried=len(faults) + equivalents,
        equivalents=equivalents,
        faults=len(faults),
    )
    # the artifacts on whose models bounds were chosen, and the others
    sets = [[item for item in items if (item.model in TUNED_ON) == tuned] for tuned in (True, False)]
    page += _TABLE.format(
        tuned=len(sets[0]),
        held_out=len(sets[1]),
        tuned_models=", ".join(sorted({item.model for item in sets[0]})),
        first=_FIRST,
    )
    for words, own in zip(("tuned on", "seen"), sets, strict=True):
        for precision, backend in sorted({item.key[:2] for item in own}):
            some = [item for item in own if item.key[:2] == (precision, backend)]
            page += _row(f"{words} | {precision} | {backend}", some)
        page += _row(f"**{words}** |  | ", own)
    page += _CURVE.format(factors=" | ".join(f"x {factor:g}" for factor in FACTORS), line="---|" * len(FACTORS))
    for precision in [*sorted({item.precision for item in items}), ""]:
        own = [item for item in items if precision in {item.precision, ""}]
        cells = [
            f"{_share(fault.caught(factor) for item in own for fault in item.faults)} / "
            f"{_share(item.refused(factor) for item in own)}"
            for factor in FACTORS
        ]
        page += f"| {precision or '**all**'} | {' | '.join(cells)} |\n"
    page += _KINDS
    for kind in sorted({fault.kind for fault in faults}):
        some = [fault for fault in faults if fault.kind == kind]
        outputs, caught = _share(fault.outputs > 1 for fault in some), _share(fault.caught() for fault in some)
        page += f"| {kind} | {len(some)} | {outputs} | {caught} |\n"
    return page + _TAIL


if __name__ == "__main__":
    PAGE.write_text(render(read_figures()))
