"""A plugin whose runtime needs a device, for tests only: $HUB_TEST_DEVICE says whether it is there, or how it is wrong.

Its models are toy binaries behind a magic of their own. $HUB_FAULTS names the edges on offer.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from hub.spec import (
    ANY,
    KEEP,
    YES,
    Accepts,
    ConvertJob,
    DescribeJob,
    DeviceMissing,
    Edge,
    Format,
    Gives,
    Identification,
    IoBinding,
    ModelArtifact,
    ModelSummary,
    Numerics,
    Runtime,
    RuntimeOptions,
    State,
    StepOutput,
    Support,
    Verdict,
    hookimpl,
)
from hub_toy.files import ToyModel, _decode_binary, read, write_binary
from hub_toy.formats import ToyBinFormat
from hub_toy.runtime import ToyRuntime, ToySession

MAGIC = b"ABSENT\n"


def write_absent(path: Path, model: ToyModel) -> None:
    write_binary(path, model)
    path.write_bytes(MAGIC + path.read_bytes())


class AbsentFormat(Format):
    name = "absent"
    suffixes = (".absent",)
    numerics = (Numerics.FP32, Numerics.FP16)
    process = "absent"

    def describe(self, job: DescribeJob) -> ModelSummary:
        inner = job.file.with_suffix(".inner")
        write_binary(inner, _decode_binary(job.file.read_bytes().removeprefix(MAGIC)))
        try:
            said = ToyBinFormat().describe(DescribeJob(path=str(inner)))
        finally:
            inner.unlink()
        state = State(format=self.name, numerics=said.state.numerics)
        files, size = (str(job.file.absolute()),), job.file.stat().st_size
        return msgspec.structs.replace(said, state=state, files=files, size_bytes=size)


class AbsentRuntime(ToyRuntime):
    """Has the protocol's words right; $HUB_TEST_DEVICE is `here`, `raises`, `text`, or anything else for not here.

    `by-model` says yes until a model is shown. $HUB_TEST_FORMATS are what it opens.
    """

    name = "abacus"
    process = "absent"
    device = "abacus"

    @property
    def formats(self) -> tuple[str, ...]:  # type: ignore[override]  # the environment's word, asked each time
        return tuple(os.environ.get("HUB_TEST_FORMATS", "absent").split())

    def runs_here(self, summary: ModelSummary | None = None) -> Verdict:
        how = os.environ.get("HUB_TEST_DEVICE", "")
        if how == "raises":
            raise OSError("no driver")
        if how == "text":
            return "no"  # type: ignore[return-value]  # the fault
        lack = Verdict(support=Support.NOTYET, reason="no abacus is plugged in", hint="plug one in")
        return YES if how == "here" or (how == "by-model" and not summary) else lack

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        if not self.runs_here():
            raise DeviceMissing("no abacus is plugged in", hint="plug one in")
        return ToySession(_decode_binary(Path(artifact.path).read_bytes().removeprefix(MAGIC)))


def _build(change: Callable[[ToyModel], ToyModel], job: ConvertJob) -> StepOutput:
    write_absent(Path(job.output), change(read(Path(job.source.path))))
    return StepOutput()


def _declares(bound: IoBinding, job: ConvertJob) -> StepOutput:
    """Build, and declare a change: what is frozen here is not in the file."""
    model, gone = read(Path(job.source.path)), {bound.source} - {bound.target}
    inputs = tuple(value for value in model.graph.inputs if value.name not in gone)
    layers = tuple(
        msgspec.structs.replace(layer, inputs=tuple("left" if name in gone else name for name in layer.inputs))
        for layer in model.graph.layers
    )
    graph = msgspec.structs.replace(model.graph, inputs=inputs, layers=layers)
    write_absent(Path(job.output), msgspec.structs.replace(model, graph=graph))
    return StepOutput(bindings=(bound,))


def _binary_zeros(job: ConvertJob) -> StepOutput:
    write_binary(Path(job.output), _zeros(read(Path(job.source.path))))
    return StepOutput()


def _zeros(model: ToyModel) -> ToyModel:
    return ToyModel(graph=model.graph, arrays={name: np.zeros_like(array) for name, array in model.arrays.items()})


def _halves(model: ToyModel) -> ToyModel:
    return ToyModel(graph=model.graph, arrays={name: a.astype(np.float16) for name, a in model.arrays.items()})


def _back(job: ConvertJob) -> StepOutput:
    write_binary(Path(job.output), _decode_binary(Path(job.source.path).read_bytes().removeprefix(MAGIC)))
    return StepOutput()


_BUILD = Edge(
    id="absent.build",
    accepts=(Accepts(format="toybin", numerics=ANY),),
    gives=Gives(format="absent", numerics=KEEP),
    convert=functools.partial(_build, lambda model: model),
    keeps_dynamic=True,
    process="absent",
)
_HALF = Gives(format="absent", numerics=Numerics.FP16)
_HALVING = functools.partial(_build, _halves)
EDGES = {
    "build": _BUILD,
    "zeros": msgspec.structs.replace(_BUILD, id="absent.zeros", convert=functools.partial(_build, _zeros)),
    "lossy": msgspec.structs.replace(_BUILD, id="absent.lossy", gives=_HALF, convert=_HALVING, lossy=True),
    "secretly-lossy": msgspec.structs.replace(
        _BUILD,
        id="absent.secretly-lossy",
        accepts=(Accepts(format="toybin"),),
        gives=_HALF,
        convert=_HALVING,
    ),
    "back": msgspec.structs.replace(
        _BUILD,
        id="absent.back",
        accepts=(Accepts(format="absent"),),
        gives=Gives(format="toybin"),
        convert=_back,
    ),
    "freezes": msgspec.structs.replace(
        _BUILD,
        id="absent.freezes",
        convert=functools.partial(_declares, IoBinding(direction="input", source="right", target="", constant=7)),
        honours=("constants",),
    ),
    "moves": msgspec.structs.replace(
        _BUILD,
        id="absent.moves",
        convert=functools.partial(
            _declares, IoBinding(direction="input", source="right", target="right", permutation=(0, 1))
        ),
    ),
    "binary-zeros": msgspec.structs.replace(
        _BUILD,
        id="absent.binary-zeros",
        accepts=(Accepts(format="toy"),),
        gives=Gives(format="toybin"),
        convert=_binary_zeros,
        cost=0.1,
    ),
    "with-device": msgspec.structs.replace(_BUILD, id="absent.with-device", needs_device="abacus"),
}


@hookimpl
def hub_register_formats() -> list[Format]:
    return [AbsentFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    return [EDGES[name] for name in os.environ.get("HUB_FAULTS", "").split() if name in EDGES]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    return [AbsentRuntime()]


@hookimpl
def hub_identify_format(header: bytes) -> Identification | None:
    return Identification(format="absent") if header.startswith(MAGIC) else None
