"""Open models in the caller's own process: one interface for every runtime."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hub._effects import misfit
from hub._opening import Opened, choose_runtime, open_model
from hub._plugins import Registry
from hub._request import parse_source
from hub._runner import session
from hub._unrun import check_here
from hub.spec import (
    ConvertOptions,
    Execution,
    Explains,
    KeepsState,
    RunsAsync,
    RuntimeOptions,
    Session,
    ShowsIntermediates,
    Signature,
    State,
    UnsupportedModel,
    UsageError,
)

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


def open_session(
    model: str, *, how: RuntimeOptions | None = None, options: ConvertOptions | None = None, runtime: str = ""
) -> "Model":
    """Open a model for running, in this process.

    It is read in a worker first, so that a file that is none, or that its runtime lacks operators for, is a coded error
    and not a crash of this process.

    Args:
        model: Path or builder.
        how: Kernel set, device, threads and precision; by default float32 on the CPU.
        options: For reading it: shapes of files that hold none, `allow_pickle`.
        runtime: Which one opens it, by name; by default that of the plugin that reads its format.

    Raises:
        DeviceMissing: The device is not there.
        HubError: The model cannot be read or opened.
    """
    registry, how = Registry(), how or RuntimeOptions()
    with session(registry) as runner:
        opened = open_model(runner, parse_source(model), options or ConvertOptions())
    opener = choose_runtime(registry, opened.artifact, runtime, how.variant)
    check_here(registry, opener, opened.summary)
    return Model(opened, opener.open(opened.artifact, how), opener.name)


class Model:
    """An open model. Use it in a `with` block, or call `close`.

    Args:
        opened: The artifact and what its reader says.
        session: The runtime's session.
        runtime: The runtime's name.

    Attributes:
        runtime: The runtime's name.
    """

    def __init__(self, opened: Opened, session: Session, runtime: str) -> None:
        self._opened = opened
        self._session = session
        self._executor: ThreadPoolExecutor | None = None
        self.runtime = runtime

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        return self._opened.summary.signature

    @property
    def state(self) -> State:
        """Format, numerics, form."""
        return self._opened.summary.state

    def run(self, feeds: "Feeds") -> "Feeds":
        """Run once: arrays by input name in, arrays by output name out.

        Raises:
            HubError: A feed is missing, unknown, or of the wrong type or shape; or a kernel failed.
        """
        self._check(feeds)
        return self._session.run(feeds)

    def _check(self, feeds: "Feeds") -> None:
        wrong = misfit(self.signature.inputs, feeds, dtypes=True)
        if wrong:
            raise UsageError(f"the model is fed {wrong}", hint=f"feed {', '.join(map(str, self.signature.inputs))}")

    def run_async(self, feeds: "Feeds") -> "Future[Feeds]":
        """Start a run and return at once; `feeds` must not be changed before the future is done.

        A runtime without asynchronous runs of its own runs them one after the other in a thread.
        """
        self._check(feeds)
        if isinstance(self._session, RunsAsync):
            return self._session.run_async(feeds)
        self._executor = self._executor or ThreadPoolExecutor(max_workers=1)
        return self._executor.submit(self._session.run, feeds)

    def run_batch(self, samples: "Sequence[Feeds]") -> "list[Feeds]":
        """Run several samples of batch size 1 in one run, where the model leaves its batch open; else one by one.

        Args:
            samples: Feeds, each array [1, ...]; all samples alike in shape.
        """
        if len(samples) < 2 or not self._stacks(samples):  # noqa: PLR2004 one sample is no batch
            return [self.run(feeds) for feeds in samples]
        import numpy as np

        together = self.run({name: np.concatenate([feeds[name] for feeds in samples]) for name in samples[0]})
        return [{name: array[i : i + 1] for name, array in together.items()} for i in range(len(samples))]

    def _stacks(self, samples: "Sequence[Feeds]") -> bool:
        """Whether every input and output begins with the same open dimension, and the samples fit together."""
        specs = (*self.signature.inputs, *self.signature.outputs)
        first = [spec.shape[0].symbol if spec.shape else None for spec in specs]
        shapes = [{name: array.shape for name, array in feeds.items()} for feeds in samples]
        alike = all(found == shapes[0] for found in shapes) and all(shape[0] == 1 for shape in shapes[0].values())
        return bool(first) and first[0] is not None and len(set(first)) == 1 and alike

    def reset_state(self) -> None:
        """Start the next sequence, in a model opened with `keep_state`.

        Raises:
            UnsupportedModel: The runtime keeps no state between runs.
        """
        if not isinstance(self._session, KeepsState):
            raise self._lacks("keep state between runs")
        self._session.reset_state()

    def intermediate(self, names: Sequence[str]) -> "Model":
        """Open the same model with the tensors of these names as its outputs.

        Raises:
            UnknownName: There is no such tensor.
            UnsupportedModel: The runtime cannot show what is inside.
        """
        if not isinstance(self._session, ShowsIntermediates):
            raise self._lacks("show tensors inside the model")
        return Model(self._opened, self._session.intermediate(names), self.runtime)

    def execution(self, feeds: "Feeds") -> Execution:
        """Profile a few runs, and say what the runtime executes: fusions, precisions, devices, shares of the time.

        Raises:
            UnsupportedModel: The runtime does not tell.
        """
        if not isinstance(self._session, Explains):
            raise self._lacks("say how it executes a model")
        return self._session.execution(feeds)

    def _lacks(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.runtime} cannot {what}", hint="convert to onnxruntime, openvino or tflite")

    def close(self) -> None:
        """Release the model."""
        if self._executor:
            self._executor.shutdown()
        self._session.close()
