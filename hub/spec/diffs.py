"""Reports of `hub diff`: two models against each other, tensor by tensor, and why they differ."""

from typing import Literal

import msgspec

from hub.spec.artifacts import ModelArtifact
from hub.spec.remarks import Remark
from hub.spec.reports import SQNR_CAP_DB, InputsKind
from hub.spec.tensors import QuantParams

MatchedBy = Literal["name", "value", "place"]
"""How two tensors were taken for the same one: by what the files call them, by their values on the same samples, or
because they stand between others that match, with the same sizes."""

CauseCode = Literal[
    "constant-scaled",
    "constant-transposed",
    "constant-permuted",
    "channel-scaled",
    "constant-wrapped",
    "constant-differs",
    "norm-folded",
    "bias-moved",
    "range-cuts",
    "saturated",
    "axes-permuted",
    "channels-permuted",
    "result-scaled",
    "result-shifted",
    "coarse-grid",
    "other-computation",
    "not-finite",
    "outputs-swapped",
]
"""What explains a difference:

* `constant-scaled`: a constant of B is A's times one factor;
* `constant-transposed`, `constant-permuted`: it is A's with two axes, or with channels, in each other's place;
* `channel-scaled`: some of its channels are A's times a factor of their own, 0 for a channel that is lost;
* `constant-wrapped`: values have the other sign; `constant-differs`: anything else beyond rounding;
* `norm-folded`: every channel has a factor of its own, as a normalization that was folded in leaves it: no fault;
* `bias-moved`: what is added is moved a little in a model with integers, as quantizers correct means: no fault;
* `range-cuts`: B's range cuts off values that A's layer gives; `saturated`: many values lie at the ends of B's range;
* `axes-permuted`, `channels-permuted`: B's tensor is A's with axes, or channels, in another order;
* `result-scaled`, `result-shifted`: it is A's times a factor, or with another mean in each channel;
* `coarse-grid`: what is left is the rounding of B's grid, which is coarse for these values;
* `other-computation`: alike inputs and constants, and another result: another operator, or attribute of it;
* `not-finite`: B gives NaN or infinity where A does not; `outputs-swapped`: one output is another one of A.
"""


class DiffCause(msgspec.Struct, frozen=True, kw_only=True):
    """What explains a difference: a code that means one thing, and a sentence with the values."""

    code: CauseCode
    text: str


class OutputDiff(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output of B against the same output of A, over all samples.

    Attributes:
        output: A's name.
        other: B's name.
        elements: Numbers compared.
        max_abs: Largest absolute difference.
        sqnr_db: 10 log10(sum A^2 / sum (B - A)^2), capped at `SQNR_CAP_DB`.
        cosine: In [-1, 1].
        causes: What explains the difference.
    """

    output: str
    other: str
    elements: int
    max_abs: float
    sqnr_db: float
    cosine: float
    causes: tuple[DiffCause, ...] = ()


class LayerDiff(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tensor inside B against the same tensor inside A.

    Attributes:
        place: In the order in which A executes its layers, from 0.
        layer: B's layer that gives it, and its operator.
        operator: As B's file calls it.
        tensor: B's tensor.
        other_layer: A's layer.
        other_operator: As A's file calls it.
        other_tensor: A's tensor.
        shape: Sizes on the first sample, as A has them.
        matched_by: How the two were taken for the same.
        axes: Axes of A's tensor in the order in which B has them, axes of size 1 left out; empty where it is the same.
        accumulated_db: SQNR of B's tensor against A's, both in their own whole run.
        local_db: SQNR of B's tensor against what A's layers compute from B's own tensors before it: what this layer
            adds by itself. None where A's layers do not run apart.
        saturated_share: Share of values that lie at the ends of B's range, where it has one.
        cut_share: Share of the values that A's layer gives which lie outside of B's range.
        diverges: Whether the layer is further off than rounding to B's precision explains.
        causes: What explains it.
    """

    place: int
    layer: str
    operator: str
    tensor: str
    other_layer: str
    other_operator: str
    other_tensor: str
    shape: tuple[int, ...]
    matched_by: MatchedBy
    axes: tuple[int, ...] = ()
    accumulated_db: float = SQNR_CAP_DB
    local_db: float | None = None
    saturated_share: float | None = None
    cut_share: float | None = None
    diverges: bool = False
    causes: tuple[DiffCause, ...] = ()

    @property
    def added_db(self) -> float:
        """What the layer adds by itself, or what had added up where that is not known."""
        return self.accumulated_db if self.local_db is None else self.local_db


class TensorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The values of one tensor in both models, for a drawing.

    Attributes:
        place: As in `LayerDiff`.
        edges: Bounds of the histogram's bins, one more than there are bins.
        counts: B's values in each bin.
        other_counts: What A's layers compute from B's tensors before it, or A's own tensor, in each bin.
        quant: B's grid.
        low: Smallest real number of it.
        high: Largest.
        axis: Axis of A's tensor along which `channels` lie; -1 for none.
        channels: SQNR of each channel in dB.
    """

    place: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    other_counts: tuple[int, ...]
    quant: QuantParams | None = None
    low: float | None = None
    high: float | None = None
    axis: int = -1
    channels: tuple[float, ...] = ()


class InsideDiff(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What two models have inside, compared.

    Attributes:
        layers: Every pair of tensors that were taken for the same, in the order in which A executes them.
        of: Layers of A and of B.
        samples: Samples that were run.
        details: The tensors that differ most.
        left_out: Why a tensor or layer could not be compared -> how many.
        lack: Why nothing was compared; empty where something was.
    """

    layers: tuple[LayerDiff, ...] = ()
    of: tuple[int, int] = (0, 0)
    samples: int = 0
    details: tuple[TensorDetail, ...] = ()
    left_out: dict[str, int] = {}
    lack: str = ""

    @property
    def first(self) -> LayerDiff | None:
        """The first layer that diverges, in A's order."""
        return next((layer for layer in self.layers if layer.diverges), None)

    def worst(self, count: int) -> tuple[LayerDiff, ...]:
        """Those that add most error by themselves."""
        return tuple(sorted(self.layers, key=lambda layer: layer.added_db)[:count])


class DiffReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two models on the same samples.

    Attributes:
        model: A: what the other one is measured against.
        other: B.
        stand_in: The model that was opened in A's place, computing the same, where A does not show its layers.
        inputs: Where the samples came from.
        samples: How many were run for the outputs.
        outputs: Each output.
        inside: Each tensor inside that both have.
        remarks: What must be said of the comparison.
    """

    model: ModelArtifact
    other: ModelArtifact
    stand_in: ModelArtifact | None = None
    inputs: InputsKind
    samples: int
    outputs: tuple[OutputDiff, ...]
    inside: InsideDiff
    remarks: tuple[Remark, ...] = ()

    @property
    def swapped(self) -> tuple[str, ...]:
        """Which outputs are in each other's place, in words: it explains more than any layer does."""
        causes = (cause for output in self.outputs for cause in output.causes)
        return tuple(cause.text for cause in causes if cause.code == "outputs-swapped")


class ReducedCase(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A layer of B that fails by itself, beside the layers of A that it does the work of.

    Attributes:
        layer: The layer; None where no case was found.
        parts: Layers of A and of B that are left.
        sample: Which sample is fed, from 0: the one with the largest error.
        sqnr_db: SQNR of B's part against A's part on it, as the script computes it.
        least_db: What rounding to B's grids leaves of it, less a margin: with less the script exits with 1.
        max_abs: Largest absolute difference.
        lack: Why there is no case; empty where there is one.
    """

    layer: LayerDiff | None = None
    parts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    sample: int = 0
    sqnr_db: float = SQNR_CAP_DB
    least_db: float = 0.0
    max_abs: float = 0.0
    lack: str = ""


class ReduceReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `hub reduce` found of two models.

    Attributes:
        model: A.
        other: B.
        stand_in: The model that was opened in A's place, computing the same, where A does not show its layers.
        inputs: Where the samples came from.
        case: What is left.
        folder: Where it was written; empty where there was nothing to write.
    """

    model: ModelArtifact
    other: ModelArtifact
    stand_in: ModelArtifact | None = None
    inputs: InputsKind
    case: ReducedCase
    folder: str = ""
