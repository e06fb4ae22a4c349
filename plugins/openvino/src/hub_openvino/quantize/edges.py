"""What the planner sees of the quantization with NNCF."""

from __future__ import annotations

from collections.abc import Sequence

from hub.spec import (
    YES,
    Converter,
    ConvertJob,
    ConvertOptions,
    Edge,
    ModelSummary,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
)
from hub_openvino.identify import FORMAT
from hub_openvino.quantize.plans import PLANS, Plan, run_plan
from hub_openvino.silence import silence_telemetry


def _edge(plan: Plan) -> Edge:
    return Edge(
        id=f"openvino.{plan.name}",
        source=State(format=FORMAT),
        target=State(format=FORMAT, numerics=plan.numerics),
        lossy=True,
        needs_calibration=plan.needs_samples,
        keeps_dynamic=True,
        requires=("openvino>=2026.4", "nncf>=3.4"),
        process="openvino",
        cost=plan.cost,
        title=plan.title,
    )


class OpenvinoQuantizer:
    """Quantization of float32 IRs with NNCF."""

    def __init__(self) -> None:
        self._plans = {f"openvino.{plan.name}": plan for plan in PLANS}
        self._edges = tuple(map(_edge, PLANS))

    @property
    def edges(self) -> Sequence[Edge]:
        """One edge per plan."""
        return self._edges

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: NNCF lives in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Says no to integer inputs and outputs, and to a plan that would repeat an earlier one on this model."""
        if options.io_dtype:
            reason = f"{edge.target.numerics.value} IRs keep float inputs and outputs, not {options.io_dtype}"
            return Verdict(support=Support.NEVER, reason=reason, hint="leave --io-dtype out")
        needed = self._plans[edge.id].needs_operator
        if needed and summary.state.format == FORMAT and needed not in summary.operators:
            return Verdict(support=Support.NEVER, reason=f"the model has no {needed}")
        blocking = next((item for item in summary.findings if item.blocking and summary.state.format == FORMAT), None)
        return Verdict(support=Support.NEVER, reason=blocking.message, hint=blocking.hint) if blocking else YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Runs one edge; see `run_plan`."""
        silence_telemetry()
        return run_plan(self._plans[job.edge], job)


_: type[Converter] = OpenvinoQuantizer
