"""Reports: parity, routes, steps, and the receipt that goes with every artifact."""

from typing import Literal

import msgspec

from hub.spec.artifacts import ModelArtifact
from hub.spec.edges import ConvertOptions, IoBinding
from hub.spec.execution import ExecutionReport
from hub.spec.numerics import Numerics, State
from hub.spec.recipes import QuantRecipe
from hub.spec.remarks import Remark
from hub.spec.tensors import TensorSpec

RECEIPT_VERSION = 2
"""Version of the receipt's format: hub reads those before it too, and refuses a newer one."""
SQNR_CAP_DB = 300.0
"""SQNR of an exact match. Float64 itself ends near 6.02 * 53 = 319 dB, so no real measurement reaches it."""

InputsKind = Literal["random", "held-out", "given"]
"""Where the inputs of a comparison come from."""
TimedModel = Literal["source", "float", "result"]
"""Which of the models of a conversion was timed."""


class ParityPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gate. Every bound that is set must hold for every output.

    Attributes:
        numerics: Precision that the gate is for.
        relative_max: Bound on max |result - source| / max |source|, over all samples of one output.
        cosine_min: Bound on the cosine between the flattened outputs.
        sqnr_min_db: Bound on 10 log10(sum source^2 / sum (result - source)^2).
        top1_min: Share of rows whose arg-max must agree, among those whose first class leads by more than the noise,
            and of labelled rows that the source has right; it fails where so few would agree by chance once in a
            thousand times: P[X <= agreeing], X binomial with that share (Clopper and Pearson, 1934).
        centred_min_db: The same as `sqnr_min_db` without the source's mean, which a constant has too.
        single_min_db: The same for a single sample, and a single component of an axis, whose noise stands out.
        movement_min: Root mean square without the mean, as a part of the largest value, from which an output moves at
            all: what moves by less is no evidence at this precision.
        source: Where the bounds come from.
        custom: Whether the user set them.
    """

    numerics: Numerics
    relative_max: float | None = None
    cosine_min: float | None = None
    sqnr_min_db: float | None = None
    top1_min: float | None = None
    centred_min_db: float | None = None
    single_min_db: float | None = None
    movement_min: float | None = None
    source: str = ""
    custom: bool = False


class OutputParity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output of the result against the same output of the source, over all samples.

    Attributes:
        output: The source's output name; with indices for a part of it that is judged by itself.
        runtime: Runtime and variant that ran the result.
        samples: Samples compared.
        elements: Numbers compared.
        max_abs: Largest absolute error.
        mean_abs: Mean absolute error.
        relative: max_abs / max |source|.
        cosine: In [-1, 1].
        sqnr_db: Capped at `SQNR_CAP_DB`.
        top1: Share of rows whose arg-max agrees, among those whose first class leads by more than the noise; None where
            there are none.
        top1_rows: How many those are.
        centred_sqnr_db: SQNR without the source's mean (of each component, where their means differ).
        centred_cosine: Cosine without it.
        unequal: Share of the numbers that are not the source's, for flags and integers of 32 and 64 bits.
        worst_db: SQNR of the worst sample or component whose noise stands out; None where none does.
        worst_at: Which that is: `sample 3`, `[:, 17]`.
        failures: Bounds that do not hold, in words with values.
        unproved: Why the source's output is no evidence on these samples; empty where it is.
    """

    output: str
    runtime: str
    samples: int
    elements: int
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    sqnr_db: float
    top1: float | None = None
    top1_rows: int = 0
    centred_sqnr_db: float | None = None
    centred_cosine: float | None = None
    unequal: float | None = None
    worst_db: float | None = None
    worst_at: str = ""
    failures: tuple[str, ...] = ()
    unproved: str = ""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Top-1 accuracy on labelled data, before and after.

    Attributes:
        samples: Labelled rows.
        source: Share that the source has right.
        result: Share that the result has right.
        lost: Rows that the source has right and the result wrong.
        failure: The bound that this breaks, in words with values.
    """

    samples: int
    source: float
    result: float
    lost: int = 0
    failure: str = ""


class ParityReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The measurement after one edge.

    Attributes:
        policy: The gate.
        inputs: Where the samples came from.
        reference_runtime: Who ran the source.
        outputs: Each output and quiet part, in each kernel set.
        passed: Whether every bound holds, and something was proved.
        remarks: What must be said of it where no receipt goes with it.
        unproved: Why nothing was proved, where no bound is broken and yet it did not pass: no evidence.
        accuracy: On labelled data, where the measurement itself is all that there is.
        local: Layer by layer, likewise.
    """

    policy: ParityPolicy
    inputs: InputsKind
    reference_runtime: str
    outputs: tuple[OutputParity, ...]
    passed: bool
    remarks: tuple[Remark, ...] = ()
    unproved: str = ""
    accuracy: Accuracy | None = None
    local: "LocalReport | None" = None

    @property
    def worst(self) -> OutputParity:
        """The output with the lowest SQNR."""
        return min(self.outputs, key=lambda output: output.sqnr_db)


class LayerParity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing in a result against the same thing in the float model, on the result's own inputs.

    Attributes:
        layer: The result's layer.
        operator: As the file calls it.
        tensor: What was compared: the float model's name.
        what: A constant, what a layer gives, what is only rounded, or how a norm divides: its gain, its epsilon.
        steps: Error in steps of its grid: the largest of a constant, the root mean square of the others.
        far_share: Share of values more than two steps off.
        cut_share: Share of values that the range cuts off.
        sqnr_db: 10 log10(sum float^2 / sum (result - float)^2), where the values lie on no grid.
        excess: How much of what is allowed that is; above 1 it fails.
        failures: Bounds that do not hold, in words with values: the layer is not the float model's.
        cautions: What is told and does not refuse the result.
    """

    layer: str
    operator: str
    tensor: str
    what: Literal["constant", "result", "rounding", "norm", "epsilon"]
    steps: float = 0.0
    far_share: float = 0.0
    cut_share: float = 0.0
    sqnr_db: float = SQNR_CAP_DB
    excess: float = 0.0
    failures: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


class LocalReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A result against its float model, layer by layer.

    Attributes:
        layers: Layers of the result that were held against the float model's.
        of: Layers that it has.
        joint: Those of `layers` that were held against the float model's several at once, as constants were folded.
        left_out: Why a layer was not compared -> number of such layers.
        constants: Constants that were compared.
        samples: Samples that were run.
        failed: Comparisons that failed.
        excess: How much of what is allowed the worst of them is; above 1 it fails.
        worst: The worst comparisons, those that failed first.
        remarks: What is told of layers and does not refuse the result.
        lack: Why nothing was compared; empty where something was.
        against: Which float model, where it is none of the conversion's own steps.
    """

    layers: int = 0
    of: int = 0
    joint: int = 0
    left_out: dict[str, int] = {}
    constants: int = 0
    samples: int = 0
    failed: int = 0
    excess: float = 0.0
    worst: tuple[LayerParity, ...] = ()
    remarks: tuple[Remark, ...] = ()
    lack: str = ""
    against: str = ""


class Timing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long one run of a model takes.

    Attributes:
        model: `source`, `result`, or `float`: the result's float form in the result's own runtime.
        state: What was timed.
        runtime: Who ran it, as it is deployed: with the precision that the runtime chooses by itself.
        seconds: Median over the rounds of the shortest run in a round.
    """

    model: TimedModel
    state: State
    runtime: str
    seconds: float


STEADY_SPREAD = 1.5
"""Upper over lower quartile of paired ratios: beside two busy processes on two cores it measured 1.07 to 1.49."""


class Speed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Models timed in one process, in turns, on the same inputs.

    Attributes:
        timings: Each model that was timed.
        baseline: What `speedup` compares with: the float form, else the source.
        speedup: Median over the rounds of (time of the baseline / time of the result); above 1 the result is faster.
        slowest: The smallest of those ratios.
        fastest: The largest.
        rounds: Rounds; in each, every model has its turn.
        opposed: Rounds that say the opposite of the median: slower where that is above 1, faster where below.
        middle_half: Lower and upper quartile of the ratios; receipts of older versions lack it.
        processor: The CPU, with what matters of its instruction sets.
        cached: Whether the figures are of an earlier run on this machine, on the same bytes.
    """

    timings: tuple[Timing, ...]
    baseline: TimedModel
    speedup: float
    slowest: float
    fastest: float
    rounds: int
    processor: str
    cached: bool = False
    opposed: int = 0
    middle_half: tuple[float, float] | None = None

    def __str__(self) -> str:
        """`1.53x as fast as its float form (1.49 to 1.60, 15 rounds)`, or that the machine does not let it be told."""
        what = "its float form" if self.baseline == "float" else "the source"
        low, middle, high = (
            f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.1g}"  # noqa: PLR2004 no 0.00
            for ratio in (self.slowest, self.speedup, self.fastest)
        )
        span = f"{low} to {high}, {self.rounds} rounds"
        if self.is_told:
            return f"{middle}x as fast as {what} ({span})"
        return f"could not be {'told apart from' if self.is_steady else 'measured against'} {what} ({span})"

    @property
    def is_told(self) -> bool:
        """Whether the rounds agree: not where more than a quarter say the opposite, and they differ more than twofold.

        A few odd rounds are other work on the machine: of 15 coins, 3 or fewer show the other side in 2 % of throws.
        """
        return self.is_steady and (4 * self.opposed <= self.rounds or self.fastest <= 2 * self.slowest)

    @property
    def is_steady(self) -> bool:
        """Whether the middle half of the rounds lies within `STEADY_SPREAD`: otherwise a ratio says nothing."""
        return self.middle_half is None or self.middle_half[1] <= STEADY_SPREAD * self.middle_half[0]


ExecutionLevel = Literal["run", "device-run", "aot-built"]
"""Where a result was executed and compared: here; here, on the device that its runtime needs; nowhere yet."""


class NotRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a result was built and not run, and what was proved in its place.

    Attributes:
        reason: Why its runtime does not run it on this machine.
        hint: What to do.
        proved: The model that it was built of, which computes in the same numerics: the step before, or the source.
        runtime: Who ran that.
        parity: What was measured there; None where it is the source itself.
    """

    reason: str
    proved: ModelArtifact
    runtime: str
    hint: str = ""
    parity: ParityReport | None = None


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One edge as it was run.

    Attributes:
        seconds: Wall-clock time of the step in its worker; of the original run when `cached`.
        peak_memory_bytes: Peak resident set of the worker during the step.
        lossy: As the edge declares it.
        local: The same layer by layer, for the last step that ran and whose numerics are not float32.
        tools: Distribution -> version of everything that the edge requires.
        operators: Operators of the result's file -> count: against the step before, what the step folded and fused.
        not_run: Set where the result cannot be run on this machine, so that nothing was compared.
    """

    edge: str
    title: str
    artifact: ModelArtifact
    seconds: float
    peak_memory_bytes: int
    cached: bool
    lossy: bool = False
    notes: tuple[Remark, ...] = ()
    bindings: tuple[IoBinding, ...] = ()
    recipe: QuantRecipe | None = None
    parity: ParityReport | None = None
    local: LocalReport | None = None
    tools: dict[str, str] = {}
    operators: dict[str, int] = {}
    not_run: NotRun | None = None


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route that was given up, and why.

    Attributes:
        route: Edge ids.
        edge: The one that failed.
        title: What it is called.
        code: The error's code.
        message: The error's message.
        refused: Whether the edge refused the model that the route had got to, so that it did not run.
        log: Folder with the log of what ran.
        reproduce: Command that runs it again.
        parity: What was measured, where the result was wrong.
    """

    route: tuple[str, ...]
    edge: str
    code: str
    message: str
    title: str = ""
    refused: bool = False
    log: str = ""
    reproduce: str = ""
    parity: ParityReport | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Edges in order, with everything that was left out and why."""

    edges: tuple[str, ...]
    left_out: dict[str, Remark] = {}


class CalibrationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What data was used: as the user named it, for calibration, and to check on where that is other data."""

    spec: str
    fingerprint: str
    calibration_samples: int
    held_out_samples: int
    test: str = ""


class IoContract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input or output of the source, and what it is in the result.

    Attributes:
        direction: `input` or `output`.
        source: As the source declares it.
        result: As the result declares it, quantization parameters included; None when it was frozen away.
        changes: Every declared change on the way, in words.
    """

    direction: str
    source: TensorSpec
    result: TensorSpec | None
    changes: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done and what was measured; written beside the artifact as `<artifact>.hub.json`.

    `remarks` are all that was told: findings in the source, notes of every step, warnings about result and proof.
    `operators` are the source's; `execution` is how the result's runtime executes it, where the runtime tells; `parity`
    was measured in pinned float32, `deployed` with what the runtime does by itself on this machine. A result that was
    `aot-built` has no `parity`: nothing of it was run, and `not_run` says why, and what was proved in its place.
    `target` and `options` are what was asked for, so that it can be asked for again; older receipts lack them.
    `digest` hashes all the rest of the file, so that an edited one is told: `hub verify` and `hub repair` take its word
    and say so. A builder's model has the builder, `package.module:function`, as the path of its `source`.
    """

    receipt_version: int
    hub_version: str
    created: str
    requested: Numerics
    source: ModelArtifact
    result: ModelArtifact
    route: Route
    steps: tuple[StepRecord, ...]
    parity: ParityReport | None = None
    level: ExecutionLevel = "run"
    not_run: NotRun | None = None
    contract: tuple[IoContract, ...] = ()
    remarks: tuple[Remark, ...] = ()
    failed_attempts: tuple[FailedAttempt, ...] = ()
    calibration: CalibrationRecord | None = None
    accuracy: Accuracy | None = None
    operators: dict[str, int] = {}
    execution: ExecutionReport | None = None
    deployed: ParityReport | None = None
    speed: Speed | None = None
    environment: dict[str, str] = {}
    target: str = ""
    options: ConvertOptions = ConvertOptions()
    digest: str = ""


class RepairReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was found of a result, and what was made in its place.

    Attributes:
        result: The model that was judged.
        parity: Its outputs against the source's, and its layers against the float model's; None where that was no more
            possible.
        made: Its own receipt, where there is one.
        receipt: That of the new one; None where nothing was wrong.
        broken: Why it could not even be run.
    """

    result: ModelArtifact
    parity: ParityReport | None = None
    made: Receipt | None = None
    receipt: Receipt | None = None
    broken: str = ""
