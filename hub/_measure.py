"""Run a source and a result on the same samples, and compare."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from hub._bindings import Chain, declared_dtypes, is_dropped, keeps_state, to_artifact, to_reals
from hub._candidate import Candidate
from hub._inputs import one_step_up
from hub._parity import compare
from hub._runner import Runner
from hub._shapes import check_affordable
from hub._store import key_of
from hub.spec import (
    ConvertOptions,
    HubError,
    InputsKind,
    IoBinding,
    LocalReport,
    ModelArtifact,
    Numerics,
    ParityPolicy,
    ParityReport,
    RuntimeOptions,
    SampleFolder,
    write_sample,
)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What the source computes.

    Attributes:
        inputs: Folder and fingerprint of the samples, frozen inputs included.
        kind: Where they came from.
        outputs: Folder of the source's outputs.
        runtime: Who ran it.
        constant: Outputs that are the same for every sample, to the last bit: their comparison proves little.
        unsteady: Outputs that are others when the first sample is run once more.
        others: The same at other sizes, for results whose dimensions stay open.
        size: The sizes of the inputs, of those.
    """

    inputs: tuple[str, str]
    kind: InputsKind
    outputs: Path
    runtime: str
    constant: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    others: tuple["Reference", ...] = ()
    size: str = ""


def run_options(options: ConvertOptions, variant: str = "", chain: Chain = ()) -> RuntimeOptions:
    """How a model of this request is opened, with the changes so far: one that keeps state runs the samples in turn."""
    return RuntimeOptions(
        variant=variant,
        keep_state=keeps_state(chain),
        allow_pickle=options.allow_pickle,
        allow_custom_ops=options.allow_custom_ops,
        submodule=options.submodule,
    )


def reference_of(
    runner: Runner, artifact: ModelArtifact, samples: tuple[str, str], kind: InputsKind, options: ConvertOptions
) -> Reference:
    """Run the source in its own runtime; inputs that the request freezes are fed their constants."""
    inputs = whole_inputs(runner, artifact, samples, options)
    runtime = runner.registry.runtime_for(artifact.state.format)
    outputs, ran = runner.run(artifact, run_options(options), inputs, (), again=True)
    digests: dict[str, set[bytes]] = {}
    for given in SampleFolder(outputs):
        for name, array in given.items():
            digests.setdefault(name, set()).add(hashlib.sha256(array.tobytes()).digest())
    several = len(SampleFolder(outputs)) > 1
    constant = tuple(name for name, found in digests.items() if several and len(found) == 1)
    return Reference(
        inputs=inputs, kind=kind, outputs=outputs, runtime=runtime.name, constant=constant, unsteady=ran.unsteady
    )


def in_reals(runner: Runner, reference: Reference, own: tuple[IoBinding, ...]) -> Reference:
    """A reference whose samples and outputs are the real numbers that the source's integers stand for.

    Two models with integers at their ends have scales of their own: what is alike in both is what they stand for.

    Args:
        runner: To lend folders.
        reference: As the source takes and gives it.
        own: From real numbers to its integers; see `SignaturePairs.own`.
    """
    if not own:
        return reference
    folders = []
    for direction, folder in (("input", reference.inputs[0]), ("output", str(reference.outputs))):
        folders.append(into := runner.folder())
        for index, arrays in enumerate(SampleFolder(folder)):
            write_sample(into, index, to_reals(arrays, own, direction))
    return msgspec.structs.replace(
        reference,
        inputs=(str(folders[0]), key_of(reference.inputs[1], own)),
        outputs=folders[1],
        others=tuple(in_reals(runner, other, own) for other in reference.others),
    )


def whole_inputs(
    runner: Runner, artifact: ModelArtifact, samples: tuple[str, str], options: ConvertOptions
) -> tuple[str, str]:
    """Samples (folder and fingerprint) with everything that the source takes and the data need not hold."""
    return _with_states(runner, artifact, with_constants(runner, artifact, samples, options), options)


def _with_states(
    runner: Runner, artifact: ModelArtifact, samples: tuple[str, str], options: ConvertOptions
) -> tuple[str, str]:
    """Samples as one sequence: each state is what the source gave for the sample before, zeros for the first."""
    if not options.states:
        return samples
    import numpy as np

    specs = {spec.name: spec for spec in artifact.signature.inputs}
    zeros = {
        name: np.zeros(options.shapes.get(name) or specs[name].fixed_shape, specs[name].dtype.value)
        for name in options.states
    }
    start, folder = runner.folder(), runner.folder()
    for index, feeds in enumerate(SampleFolder(samples[0])):
        write_sample(start, index, feeds | zeros)
    fingerprint = f"{samples[1]} {sorted(options.states.items())}"
    outputs, _ = runner.run(artifact, run_options(options), (str(start), fingerprint), (), options.states)
    state: dict[str, np.ndarray[Any, Any]] = {**zeros}
    for index, (feeds, given) in enumerate(zip(SampleFolder(start), SampleFolder(outputs), strict=True)):
        write_sample(folder, index, feeds | state)
        state = {name: given[output] for name, output in options.states.items()}
    return str(folder), f"{fingerprint} in sequence"


def with_constants(
    runner: Runner, artifact: ModelArtifact, samples: tuple[str, str], options: ConvertOptions
) -> tuple[str, str]:
    """Samples (folder and fingerprint) with the values of the inputs that the request freezes.

    A frozen input's open dimension is as large as in the sample's other inputs, so that they fit each other.
    """
    if not options.constants:
        return samples
    import numpy as np

    folder, fingerprint = runner.folder(), f"{samples[1]} {sorted(options.constants.items())}"
    specs = {spec.name: spec for spec in artifact.signature.inputs}
    for index, feeds in enumerate(SampleFolder(samples[0])):
        sizes = {
            str(dim): size
            for name in feeds.keys() & specs.keys()
            for dim, size in zip(specs[name].shape, feeds[name].shape, strict=False)
        }
        shapes = {
            name: tuple(sizes.get(str(dim), dim.low) if dim.size is None else dim.size for dim in specs[name].shape)
            for name in options.constants
        }
        check_affordable(shapes)
        frozen = {
            name: np.full(shapes[name], value, specs[name].dtype.value) for name, value in options.constants.items()
        }
        write_sample(folder, index, feeds | frozen)
    return str(folder), fingerprint


def measure(runner: Runner, result: Candidate, reference: Reference, policy: ParityPolicy) -> ParityReport:
    """Run a result with every kernel set of its runtime, and compare each with the reference.

    Raises:
        StepError: A runtime refuses the artifact.
        NothingCompared: See `hub._parity.compare`.
        EffectError: Outputs have other names or shapes.
    """
    report = _measure_at(runner, result, reference, policy)
    for other in () if result.artifact.signature.is_static else reference.others:
        second = _measure_at(runner, result, other, policy)
        outputs = (*report.outputs, *second.outputs)
        report = msgspec.structs.replace(report, outputs=outputs, passed=report.passed and second.passed)
    return report


def _measure_at(runner: Runner, result: Candidate, reference: Reference, policy: ParityPolicy) -> ParityReport:
    runtime = runner.registry.runtime_for(result.artifact.state.format, result.runtime)
    folders = {
        " ".join(filter(None, (runtime.name, variant, reference.size))): run_result(
            runner, result, reference.inputs, variant
        )
        for variant in runtime.variants
    }
    return _compared(reference, folders, result.chain, policy)


def run_result(
    runner: Runner, result: Candidate, inputs: tuple[str, str], variant: str = "", precision: str = ""
) -> Path:
    """Folder of a result's outputs, in the source's terms as the inputs are."""
    how = msgspec.structs.replace(run_options(result.options, variant, result.chain), precision=precision)
    return runner.run(result.artifact, how, inputs, result.chain, preferred=result.runtime)[0]


def _compared(reference: Reference, folders: dict[str, Path], chain: Chain, policy: ParityPolicy) -> ParityReport:
    """Compare every output but those that are declared to stay inside the result."""
    names = {name for given in SampleFolder(reference.outputs) for name in given}
    return compare(
        reference.outputs,
        folders,
        policy,
        inputs=reference.kind,
        reference_runtime=reference.runtime,
        dropped={name for name in names if is_dropped(name, chain)},
        dtypes=declared_dtypes(names, chain),
    )


def measure_local(
    runner: Runner, source: ModelArtifact, result: Candidate, reference: Reference, calibration: tuple[str, str]
) -> LocalReport:
    """Hold a quantized result against the float model that it was made of, layer by layer; see `hub._local`.

    The float model is the last one in float32 and the result's own format on the way to it: its outputs were held
    against the source's at float32's gate, so that what is like it is like the source.
    """
    models = [source, *(step.artifact for step in result.steps)]
    same = [item for item in models if item.state.format == result.artifact.state.format]
    floats = [item for item in same if item.state.numerics is Numerics.FP32]
    if not floats or result.artifact.state.numerics is Numerics.FP32:
        return LocalReport(lack="there is no float32 model in its format on the way to it")
    return compare_layers(runner, floats[-1], result, reference, calibration)


def compare_layers(
    runner: Runner,
    float_model: ModelArtifact,
    result: Candidate,
    reference: Reference,
    calibration: tuple[str, str] = ("", ""),
) -> LocalReport:
    """Hold a result against a float model in its own format, layer by layer; see `hub._local`."""
    options = run_options(result.options, chain=result.chain)
    subject = runner.subject(result.artifact, options, result.chain, result.runtime)
    try:
        return runner.local(subject, float_model, reference.inputs, calibration)
    except HubError as error:
        return LocalReport(lack=f"the layers could not be run apart: {error.message.splitlines()[0]}")


def as_deployed(options: ConvertOptions) -> RuntimeOptions:
    """How a model is opened where it is used: with the precision that its runtime chooses by itself."""
    return msgspec.structs.replace(run_options(options), precision="auto")


def measure_deployed(runner: Runner, result: Candidate, reference: Reference, policy: ParityPolicy) -> ParityReport:
    """Compare what a result's runtime computes by itself with the reference; raises as `measure`."""
    runtime = runner.registry.runtime_for(result.artifact.state.format, result.runtime)
    folder = run_result(runner, result, reference.inputs, precision="auto")
    return _compared(reference, {runtime.name: folder}, result.chain, policy)


def self_noise(runner: Runner, source: Candidate, reference: Reference, policy: ParityPolicy) -> ParityReport:
    """Compare the source with itself on inputs moved by one rounding step: what no conversion can be closer than."""
    folder = runner.folder()
    for index, feeds in enumerate(SampleFolder(reference.inputs[0])):
        write_sample(folder, index, {name: one_step_up(array) for name, array in feeds.items()})
    moved = msgspec.structs.replace(reference, inputs=(str(folder), f"{reference.inputs[1]} moved"), others=())
    return measure(runner, source, moved, policy)


def adapt_samples(runner: Runner, samples: tuple[str, str], chain: Chain) -> tuple[str, str]:
    """Carry calibration samples over the changes of the steps before."""
    if not samples[0] or not any(chain):
        return samples
    folder = runner.folder()
    for index, feeds in enumerate(SampleFolder(samples[0])):
        write_sample(folder, index, to_artifact(feeds, chain))
    return str(folder), f"{samples[1]} {chain!r}"


def outputs_of(runner: Runner, result: Candidate, reference: Reference) -> Path:
    """Folder of a result's outputs on the reference's inputs, by its runtime's first kernel set."""
    variant = runner.registry.runtime_for(result.artifact.state.format, result.runtime).variants[0]
    return run_result(runner, result, reference.inputs, variant)
