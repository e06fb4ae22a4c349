"""Results that cannot be run on this machine: what must have been proved before one is published without its own."""

from hub._candidate import Candidate
from hub._plugins import Registry
from hub.spec import DeviceMissing, DType, Edge, IoBinding, ModelSummary, NotRun, Runtime, Signature, Verdict


def built_only(
    registry: Registry, before: Candidate, edge: Edge, after: Candidate, here: Verdict, *, last: bool
) -> NotRun:
    """What stands in a record in the place of a comparison.

    The only way past the gate is a format whose own runtime says that its device is not here. Then the step must end
    the route and change nothing but the form: what it starts from has passed the gate of the very numerics in which the
    result computes, or is the source itself.

    Raises:
        DeviceMissing: Something of that does not hold, so that nothing would prove the result.
    """
    found, made = before.summary.state, after.summary.state
    parity = before.steps[-1].parity if before.steps else None
    lack = ""
    if not last:
        lack = "other steps are to follow on it"
    elif edge.lossy or found.numerics != made.numerics:
        lack = f"{edge.id} itself changes what is computed"
    elif before.steps and not (parity and parity.passed):
        lack = f"the {found} that it is made of has passed no gate"
    elif _kinds(before.summary.signature) != _kinds(after.summary.signature) or any(map(_moves, after.chain[-1])):
        lack = f"{edge.id} changes inputs or outputs"
    if lack:
        raise DeviceMissing(
            f"a {made} model cannot be run here ({here.reason}), and nothing else proves it: {lack}",
            hint=here.hint or "convert on a machine that has the device",
        )
    return NotRun(
        reason=here.reason,
        hint=here.hint,
        proved=before.artifact,
        runtime=registry.runtime_for(found.format, before.runtime).name,
        parity=parity,
    )


def _kinds(signature: Signature) -> list[list[tuple[DType, int]]]:
    """Element type and rank of every input and output: a comparison is what proves any change of these."""
    return [[(spec.dtype, len(spec.shape)) for spec in specs] for specs in (signature.inputs, signature.outputs)]


def _moves(bound: IoBinding) -> bool:
    """Whether a binding says more than another name or fewer sizes: only a run shows where its values are."""
    plain = IoBinding(
        direction=bound.direction, source=bound.source, target=bound.target, reason=bound.reason, shape=bound.shape
    )
    return bound != plain or not bound.target


def check_here(registry: Registry, runtime: Runtime, summary: ModelSummary | None) -> None:
    """Refuse to run a model whose device is not here, before anything else is run.

    Raises:
        DeviceMissing: With what to do.
    """
    here = registry.runs_here(runtime, summary)
    if not here:
        raise DeviceMissing(f"{runtime.name} cannot run models here: {here.reason}", hint=here.hint)
