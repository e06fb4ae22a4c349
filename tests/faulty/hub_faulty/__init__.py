"""A plugin of planted faults, for tests only: each edge takes a toy model to toybin and does one thing wrong.

$HUB_FAULTS names the faults on offer. They are cheaper than the sound edge, so the planner tries them first.
"""
# ruff: noqa: ARG001, T201 - the faults share one signature, and one of them prints

import ctypes
import errno
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import msgspec
import numpy as np

from hub.spec import (
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Dim,
    DType,
    Edge,
    Execution,
    Format,
    Gives,
    Identification,
    IoBinding,
    ModelArtifact,
    ModelSummary,
    Numerics,
    QuantRecipe,
    Remark,
    Runtime,
    RuntimeOptions,
    SampleFolder,
    StepOutput,
    StepWatch,
    Support,
    UnsupportedModel,
    Verdict,
    hookimpl,
)
from hub_faulty.liar import (
    TWO_FORMATS,
    BoastingRuntime,
    Claim,
    DeafRuntime,
    HalfRuntime,
    LiarFormat,
    LiarRuntime,
    MuteRuntime,
    OathFormat,
    OnesRuntime,
    WideRuntime,
    read_liar,
    write_liar,
)
from hub_toy.edges import to_static
from hub_toy.files import Array, ToyLayer, ToyModel, ToyValue, read, write_binary
from hub_toy.runtime import ToyRuntime, ToySession

Fault = Callable[[ToyModel, ConvertJob], StepOutput | None]


def _segfault(model: ToyModel, job: ConvertJob) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _exit(model: ToyModel, job: ConvertJob) -> None:
    os._exit(0)


def _sys_exit(model: ToyModel, job: ConvertJob) -> None:
    sys.exit(3)


def _hang(model: ToyModel, job: ConvertJob) -> None:
    time.sleep(120)


def _hang_with_the_lock(model: ToyModel, job: ConvertJob) -> None:
    ctypes.PyDLL(None).sleep(120)  # native code that never lets another thread of the interpreter run


def _slow(model: ToyModel, job: ConvertJob) -> None:
    child = subprocess.Popen(["sleep", "120"])
    Path(os.environ["HUB_FAULTS_MARK"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(120)


def _slow_with_the_lock(model: ToyModel, job: ConvertJob) -> None:
    Path(os.environ["HUB_FAULTS_MARK"]).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(120)


def _search(model: ToyModel, job: ConvertJob) -> None:
    """Find a result in the first trial, and go on until it is asked to end."""
    watch, end = StepWatch(job.watch), time.monotonic() + 60
    watch.tell("trial 1")
    watch.has_result = True
    watch.tell("trial 1: 15.2 dB")
    if mark := os.environ.get("HUB_FAULTS_MARK"):
        Path(mark).write_text(str(os.getpid()))
    while not watch.is_ending and time.monotonic() < end:
        time.sleep(0.02)
    _half(model, job)


def _search_badly(model: ToyModel, job: ConvertJob) -> None:
    arrays = {name: array * np.float32(1.5) for name, array in model.arrays.items()}
    _search(msgspec.structs.replace(model, arrays=arrays), job)


def _memory(model: ToyModel, job: ConvertJob) -> None:
    hoard = [np.ones(16 << 20, np.uint8)]
    while len(hoard) < 40:
        time.sleep(0.02)
        hoard.append(np.ones(16 << 20, np.uint8))
    time.sleep(60)


def _nothing(model: ToyModel, job: ConvertJob) -> None:
    """Claim success and write no file."""


def _text(model: ToyModel, job: ConvertJob) -> None:
    Path(job.output).write_bytes(Path(job.source.path).read_bytes())


def _garbage(model: ToyModel, job: ConvertJob) -> None:
    Path(job.output).write_bytes(np.random.default_rng(0).bytes(4096))


def _forget(model: ToyModel, job: ConvertJob) -> None:
    """Say that options are carried out, and carry out none."""
    write_binary(Path(job.output), model)


def _batchless(model: ToyModel, job: ConvertJob) -> StepOutput:
    """Drop the batch axis, and say that the layout was changed too."""
    sides, bindings = {}, []
    for side in ("inputs", "outputs"):
        values = getattr(model.graph, side)
        sides[side] = tuple(msgspec.structs.replace(value, shape=value.shape[1:]) for value in values)
        direction: Literal["input", "output"] = "input" if side == "inputs" else "output"
        bindings += [
            IoBinding(direction=direction, source=value.name, target=value.name, dropped=(0,)) for value in values
        ]
    graph = msgspec.structs.replace(model.graph, inputs=sides["inputs"], outputs=sides["outputs"])
    write_binary(Path(job.output), msgspec.structs.replace(model, graph=graph))
    return StepOutput(bindings=tuple(bindings))


def _false_recipe(model: ToyModel, job: ConvertJob) -> StepOutput:
    """Do nothing, and say that it was quantized."""
    write_binary(Path(job.output), model)
    recipe = QuantRecipe(
        name="faulty",
        tool="none",
        numerics=Numerics.INT8,
        weights=DType.INT8,
        activations=DType.INT8,
        granularity="per-tensor",
    )
    return StepOutput(recipe=recipe)


def _half(model: ToyModel, job: ConvertJob) -> None:
    arrays = {name: array.astype(np.float16) for name, array in model.arrays.items()}
    write_binary(Path(job.output), msgspec.structs.replace(model, arrays=arrays))


def _fixed_only(model: ToyModel, job: ConvertJob) -> None:
    shapes = [job.options.shapes[value.name] for value in model.graph.inputs]
    fixed = tuple(
        msgspec.structs.replace(value, shape=shape) for value, shape in zip(model.graph.inputs, shapes, strict=True)
    )
    graph = msgspec.structs.replace(model.graph, inputs=fixed)
    write_binary(Path(job.output), msgspec.structs.replace(model, graph=graph))


def _bake(model: ToyModel, job: ConvertJob) -> None:
    """Add a constant whose shape is the size that the core tries first, as an exporter that traces does."""
    arrays = {name: np.broadcast_to(array, (64, *array.shape)) if name.endswith(".b") else array
              for name, array in model.arrays.items()}  # fmt: skip
    write_binary(Path(job.output), msgspec.structs.replace(model, arrays=arrays))


def _side(model: ToyModel, job: ConvertJob) -> None:
    write_binary(Path(job.output), model)
    Path(job.output).with_name("weights").write_bytes(b"lost")


def _eat_input(model: ToyModel, job: ConvertJob) -> None:
    write_binary(Path(job.output), model)
    Path(job.source.path).write_text("gone")


def _border(model: ToyModel, job: ConvertJob, side: str, **change: object) -> None:
    first, *rest = getattr(model.graph, side)
    moved: tuple[ToyValue, ...] = (msgspec.structs.replace(first, **change), *rest)
    write_binary(
        Path(job.output),
        msgspec.structs.replace(model, graph=msgspec.structs.replace(model.graph, **{side: moved})),
    )


def _rename(model: ToyModel, job: ConvertJob) -> None:
    old = model.graph.outputs[0].name
    layers = tuple(
        msgspec.structs.replace(layer, output="renamed") if layer.output == old else layer
        for layer in model.graph.layers
    )
    graph = msgspec.structs.replace(model.graph, layers=layers)
    _border(msgspec.structs.replace(model, graph=graph), job, "outputs", name="renamed")


def _rename_declared(model: ToyModel, job: ConvertJob) -> StepOutput:
    _rename(model, job)
    bound = IoBinding(direction="output", source=model.graph.outputs[0].name, target="renamed", reason="a test")
    return StepOutput(bindings=(bound,))


def _dtype(model: ToyModel, job: ConvertJob) -> None:
    _border(model, job, "outputs", dtype="float64")


def _fix_dim(model: ToyModel, job: ConvertJob) -> None:
    _border(model, job, "inputs", shape=(1, *model.graph.inputs[0].shape[1:]))


def _scale(model: ToyModel, job: ConvertJob, factor: float) -> None:
    arrays = {name: array * np.float32(factor) for name, array in model.arrays.items()}
    write_binary(Path(job.output), msgspec.structs.replace(model, arrays=arrays))


def _slightly_wrong(model: ToyModel, job: ConvertJob) -> None:
    _scale(model, job, 1.01)


def _nan(model: ToyModel, job: ConvertJob) -> None:
    _scale(model, job, float("nan"))


def _swap(model: ToyModel, job: ConvertJob) -> None:
    swap = {value.name: other.name for value, other in zip(model.graph.outputs, model.graph.outputs[::-1], strict=True)}
    layers = tuple(
        msgspec.structs.replace(layer, output=swap.get(layer.output, layer.output)) for layer in model.graph.layers
    )
    graph = msgspec.structs.replace(model.graph, layers=layers)
    write_binary(Path(job.output), msgspec.structs.replace(model, graph=graph))


def _reverse(model: ToyModel, job: ConvertJob) -> None:
    arrays = {name: array[..., ::-1] for name, array in model.arrays.items()}
    write_binary(Path(job.output), msgspec.structs.replace(model, arrays=arrays))


def _sluggish(model: ToyModel, job: ConvertJob) -> None:
    """The right result, behind a thousand layers that change nothing."""
    name = model.graph.layers[0].output
    bends = tuple(
        ToyLayer(op="add", name=f"idle{number}", inputs=(name, "zero"), output=name) for number in range(1000)
    )
    zero = ToyLayer(op="affine", name="zero", inputs=(model.graph.inputs[0].name,), output="zero")
    width = model.arrays[f"{model.graph.layers[0].name}.w"].shape
    nothing = {"zero.w": np.zeros(width, np.int8), "zero.b": np.zeros(width[1], np.float32)}
    nothing["zero.w_scale"], nothing["zero.x_scale"] = np.ones(width[1], np.float32), np.float32(1)
    first, *rest = model.graph.layers
    graph = msgspec.structs.replace(model.graph, layers=(zero, first, *bends, *rest))
    to_static(job)
    int8 = read(Path(job.output)).arrays
    write_binary(Path(job.output), ToyModel(graph=graph, arrays=int8 | nothing))


def _noise(model: ToyModel, job: ConvertJob) -> None:
    print("noise on standard output", flush=True)
    print("noise on standard error", file=sys.stderr, flush=True)
    os.write(1, b"noise from native code\n")
    write_binary(Path(job.output), model)


def _refuse(model: ToyModel, job: ConvertJob) -> None:
    raise UnsupportedModel("the operator frobnicate has no counterpart", hint="leave it out")


def _calibrated(model: ToyModel, job: ConvertJob) -> None:
    raise LookupError(f"{len(SampleFolder(job.calibration))} samples, and tensor 17 has no producer")


def _raise(model: ToyModel, job: ConvertJob) -> None:
    raise LookupError("tensor 17 has no producer")


def _full_disk(model: ToyModel, job: ConvertJob) -> None:
    """As frameworks tell it: their own error, with the system's behind it or in its words."""
    raise RuntimeError("write failed") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), job.output)


def _claim_open(model: ToyModel, job: ConvertJob) -> None:
    """Write a program for one size, whose reader calls the size open."""
    write_liar(Path(job.output), model, Claim(batch=Dim(symbol="s40")))


def _narrow(model: ToyModel, job: ConvertJob) -> None:
    write_liar(Path(job.output), model, Claim(batch=Dim(symbol="batch", high=15), works_up_to=15))


def _narrow_declared(model: ToyModel, job: ConvertJob) -> StepOutput:
    _narrow(model, job)
    name, shape = model.graph.inputs[0].name, model.graph.inputs[0].shape
    dims = (Dim(symbol="batch", high=15), *map(Dim.of, shape[1:]))
    bound = IoBinding(direction="input", source=name, target=name, reason="at most 15 at once", shape=dims)
    return StepOutput(bindings=(bound,))


def _secret_limit(model: ToyModel, job: ConvertJob) -> None:
    write_liar(Path(job.output), model, Claim(batch=Dim(symbol="batch"), works_up_to=15))


FAULTS: dict[str, Fault] = {
    "fixed-claims-open": _claim_open,
    "narrow": _narrow,
    "narrow-declared": _narrow_declared,
    "secret-limit": _secret_limit,
    "segfault": _segfault,
    "exit": _exit,
    "sys-exit": _sys_exit,
    "hang": _hang,
    "hang-with-the-lock": _hang_with_the_lock,
    "slow": _slow,
    "slow-with-the-lock": _slow_with_the_lock,
    "search": _search,
    "search-badly": _search_badly,
    "memory": _memory,
    "nothing": _nothing,
    "text": _text,
    "garbage": _garbage,
    "half": _half,
    "false-recipe": _false_recipe,
    "forgetful": _forget,
    "batchless": _batchless,
    "read-as": _half,
    "bake": _bake,
    "side": _side,
    "eat-input": _eat_input,
    "fixed-only": _fixed_only,
    "fixed-too": _fixed_only,
    "rename": _rename,
    "rename-declared": _rename_declared,
    "dtype": _dtype,
    "fix-dim": _fix_dim,
    "slightly-wrong": _slightly_wrong,
    "nan": _nan,
    "swap": _swap,
    "reverse": _reverse,
    "noise": _noise,
    "sluggish": _sluggish,
    "picky": _sluggish,
    "refuse": _refuse,
    "raise": _raise,
    "full-disk": _full_disk,
    "calibrated": _calibrated,
    "returns-none": _reverse,
    "says-true": _reverse,
}


_SOURCES = {"secret-limit": "liar"}
_TARGETS = {"fixed-claims-open": "liar", "narrow": "liar", "narrow-declared": "liar", "secret-limit": "oath"}


def _takes(name: str, summary: ModelSummary, options: ConvertOptions) -> Verdict:
    if os.environ.get("HUB_FAULTS_CHECK"):
        raise RuntimeError("check has a defect")
    if name == "says-true":
        return cast("Verdict", True)  # noqa: FBT003 the fault
    if name == "picky":
        return Verdict(support=Support.NEVER, reason="the model has no LSTM")
    return YES


def _convert(name: str, job: ConvertJob) -> StepOutput:
    path = Path(job.source.path)
    model = read_liar(path)[0] if job.source.state.format == "liar" else read(path)
    done = FAULTS[name](model, job) or StepOutput()
    return cast("StepOutput", None) if name == "returns-none" else done


def _edge(name: str) -> Edge:
    second = {
        "calibrated": Numerics.INT8,
        "sluggish": Numerics.INT8,
        "picky": Numerics.INT8,
        "slow": Numerics.FP16,
        "slow-with-the-lock": Numerics.FP16,
        "search": Numerics.FP16,
        "search-badly": Numerics.FP16,
    }
    return Edge(
        id=f"faulty.{name}",
        accepts=(Accepts(format=_SOURCES.get(name, "toybin" if name in second else "toy")),),
        gives=Gives(
            format=_TARGETS.get(name, "toybin"),
            numerics=second.get(name, Numerics.FP32),
            read_as={Numerics.FP32: Numerics.FP16} if name == "read-as" else {},
        ),
        convert=functools.partial(_convert, name),
        check=functools.partial(_takes, name),
        honours=("build_for", "constants", "io_dtype", "io_layout", "submodule")
        if name in {"batchless", "forgetful"}
        else (),
        lossy=name in second,
        keeps_dynamic=not name.startswith("fixed"),
        needs_calibration=second.get(name) == Numerics.INT8,
        process="faulty",
        cost=0.6 if name.startswith("fixed") else 0.5,
        title=f"planted fault: {name}",
    )


class ClippingSession(ToySession):
    """Left to itself, clips what it gives: a kernel that saturates."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return {name: np.minimum(array, 0.4) for name, array in super().run(feeds).items()}

    def execution(self, feeds: dict[str, Array]) -> Execution:
        said = super().execution(feeds)
        return msgspec.structs.replace(
            said, runtime="abacus", remarks=(Remark("deviation", "clipped", "outputs end at 0.4", "set clip=0"),)
        )


class ClippingRuntime(ToyRuntime):
    """Is sound while float32 is pinned."""

    name = "abacus"
    formats = ("toybin",)

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        kind = ClippingSession if options.precision == "auto" else ToySession
        return kind(read(Path(artifact.path)))


@hookimpl
def hub_register_edges() -> list[Edge]:
    return [_edge(name) for name in os.environ.get("HUB_FAULTS", "").split()]


@hookimpl
def hub_register_formats() -> list[Format]:
    return [LiarFormat(), OathFormat()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    found = TWO_FORMATS.get(header[:4])
    return Identification(format=found) if found else None


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    return [
        LiarRuntime(),
        ClippingRuntime(),
        OnesRuntime(),
        HalfRuntime(),
        MuteRuntime(),
        WideRuntime(),
        BoastingRuntime(),
        DeafRuntime(),
    ]
