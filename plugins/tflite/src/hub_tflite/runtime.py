"""Runs TFLite files in LiteRT's interpreter, with XNNPACK's kernels and with the reference kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from hub.spec import (
    Execution,
    ModelArtifact,
    Runtime,
    RuntimeOptions,
    Session,
    StepError,
    UnknownName,
    UnsupportedModel,
    UsageError,
)
from hub_tflite.execution import execution_of
from hub_tflite.plain import plain_bytes
from hub_tflitefile.interface import interface_of, unique_names
from hub_tflitefile.schema import new, parse, read_bytes, to_bytes, verify
from hub_tflitefile.tables import TensorMapT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from ai_edge_litert.interpreter import Interpreter

    Array = npt.NDArray[np.generic]
    Feeds = dict[str, Array]

XNNPACK = "xnnpack"
REFERENCE = "reference"
VARIANTS = (XNNPACK, REFERENCE)


def interpreter_of(content: bytes, variant: str = "", threads: int = 0) -> Interpreter:
    """Makes an interpreter that is not yet allocated.

    Raises:
        StepError: The runtime refuses the model.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = {XNNPACK: OpResolverType.AUTO, REFERENCE: OpResolverType.BUILTIN_REF}[variant or XNNPACK]
    try:
        return Interpreter(model_content=content, num_threads=threads or None, experimental_op_resolver_type=kernels)
    except (ValueError, RuntimeError) as error:
        raise _refused(variant, "open", error) from error


def _refused(variant: str, action: str, error: Exception) -> StepError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return StepError(
        f"LiteRT with {variant or XNNPACK} kernels does not {action} the model: {reason}",
        hint=f"`hub inspect` lists the operators; `hub run --variant {REFERENCE}` uses the other kernels",
    )


class LiteRtSession:
    """One opened model, in its plain form. Inputs of another size than the file's are resized to; results are copies.

    Args:
        content: Bytes of the file.
        variant: `xnnpack` or `reference`.
        threads: Interpreter threads; 0 for its default.

    Raises:
        ModelUnreadable: The bytes are corrupt.
        StepError: The runtime refuses the model.
        UnsupportedModel: The model is raw, of a kind that has no plain form.
    """

    def __init__(self, content: bytes, variant: str = "", threads: int = 0) -> None:
        self._content = content = plain_bytes(content)
        self._variant = variant
        self._threads = threads
        self._turn = Lock()
        self._queue = ThreadPoolExecutor(1, "litert")
        self._interpreter = interpreter_of(content, variant, threads)
        model = parse(content)
        if model.signatureDefs and model.signatureDefs[0].subgraphIndex != 0:
            hint = "export it as a file of its own"
            raise UnsupportedModel("the first signature is not of the main graph", hint=hint)
        _, inputs, outputs = interface_of(model)
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        with self._said("allocate"):
            self._interpreter.allocate_tensors()

    @contextmanager
    def _said(self, action: str) -> Iterator[None]:
        """Lets a refusal of the interpreter say which kernels, and what they were asked for."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise _refused(self._variant, action, error) from error

    def run(self, feeds: Feeds) -> Feeds:
        """Runs once from fresh state: integer inputs take raw integers, integer outputs give them.

        Raises:
            UsageError: An input is missing, unknown, or of the wrong type.
            StepError: The kernels fail.
        """
        import numpy as np

        if set(feeds) != set(self.inputs):
            raise UsageError(f"the model takes {sorted(self.inputs)}, given were {sorted(feeds)}")
        with self._turn:
            self._resize(feeds)
            self._interpreter.reset_all_variables()
            for name, array in feeds.items():
                try:
                    self._interpreter.set_tensor(self.inputs[name], np.ascontiguousarray(array).reshape(array.shape))
                except ValueError as error:
                    raise UsageError(f"input {name}: {error}") from error
            with self._said("run"):
                self._interpreter.invoke()
            return {name: self._interpreter.get_tensor(index).copy() for name, index in self.outputs.items()}

    def run_async(self, feeds: Feeds) -> Future[Feeds]:
        """Queues one run: an interpreter runs one at a time, in the order in which they were asked for."""
        return self._queue.submit(self.run, feeds)

    def _resize(self, feeds: Feeds) -> None:
        details = {detail["index"]: detail for detail in self._interpreter.get_input_details()}
        changed = [n for n, a in feeds.items() if tuple(details[self.inputs[n]]["shape"]) != a.shape]
        for name in changed:
            with self._said(f"resize {name} of"):
                self._interpreter.resize_tensor_input(self.inputs[name], feeds[name].shape)
        if changed:
            with self._said("allocate"):
                self._interpreter.allocate_tensors()

    def execution(self, feeds: Feeds) -> Execution:
        """Runs once, so that all sizes are known, and reads who runs what; see `hub_tflite.execution`."""
        self.run(feeds)
        return execution_of(
            parse(self._content),
            self._interpreter,
            version=version("ai-edge-litert"),
            variant=self._variant or XNNPACK,
            threads=self._threads,
        )

    def intermediate(self, names: Sequence[str]) -> LiteRtSession:
        """Opens the same model with inner tensors as its outputs, with the same kernels.

        A delegate hands out what it otherwise keeps inside, so that it may fuse less.

        Raises:
            UnknownName: The main graph has no such tensor.
        """
        model = parse(self._content)
        graph = model.subgraphs[0]
        places = {name: index for index, name in enumerate(unique_names(graph))}
        unknown = [name for name in names if name not in places]
        if unknown:
            raise UnknownName(f"no tensor {', '.join(unknown)} in the model", hint="`hub inspect --layers` names them")
        graph.outputs = [places[name] for name in names]
        for signature in (model.signatureDefs or [])[:1]:
            signature.outputs = [new(TensorMapT, name=name.encode(), tensorIndex=places[name]) for name in names]
        return LiteRtSession(to_bytes(model), self._variant, self._threads)

    def close(self) -> None:
        """Waits for runs under way and releases the interpreter."""
        self._queue.shutdown()
        self._interpreter = None


class LiteRtRuntime(Runtime):
    """LiteRT's CPU interpreter."""

    name = "litert"
    formats = ("tflite",)
    variants = VARIANTS
    requires = ("ai-edge-litert",)
    process = "tflite"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> Session:
        """Opens a file; see `LiteRtSession`.

        Raises:
            ModelUnreadable: The file is corrupt.
            DeviceMissing: Another device than the CPU was asked for.
            StepError: The runtime refuses the model, or another precision than float32 was asked for.
        """
        options.check_cpu("LiteRT")
        options.check_float32("LiteRT")
        content = read_bytes(Path(artifact.path))
        verify(content, artifact.path)
        return LiteRtSession(content, options.variant, options.threads)
