"""A float IR with its calibration samples, opened for trials: recipes are applied to it, results run beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import AlreadyQuantized, CalibrationError, Numerics, RuntimeOptions, SampleFolder, StepError
from hub_openvino.border import DTYPES, input_names, output_names
from hub_openvino.describe import read_model
from hub_openvino.devices import settings_of
from hub_openvino.failures import FAILURES, reason_of
from hub_openvino.ir import read_ir
from hub_openvino.numerics import FoundNumerics, find_numerics
from hub_openvino.quantize.recipes import Recipe
from hub_quanttrials import Judge, Noise, Shelf, Trial

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import openvino

    from hub.spec.calibration import Feeds

    Array = npt.NDArray[np.generic]


class QuantizedIr(NamedTuple):
    """A model that a recipe gave, and what the IR's reader says that it computes in."""

    model: openvino.Model
    found: FoundNumerics


IrTrial = Trial[Recipe, QuantizedIr]


class IrSession:
    """A model in memory as a `hub.spec.Session`. Integer layers run in the CPU's own integer kernels.

    Args:
        compiled: The compiled model.
        inputs: Names for its inputs, in order.
        outputs: Names for its outputs, in order.
    """

    def __init__(self, compiled: openvino.CompiledModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._request = compiled.create_infer_request()
        self._inputs, self._outputs = inputs, outputs

    def run(self, feeds: Feeds) -> Feeds:
        """Runs once, from the first state.

        Raises:
            StepError: OpenVINO fails.
        """
        try:
            self._request.reset_state()
            self._request.infer([feeds[name] for name in self._inputs])
        except FAILURES as error:
            raise StepError(f"OpenVINO fails on a calibration sample: {reason_of(error)}") from error
        tensors = zip(self._outputs, self._request.output_tensors, strict=True)
        return {name: tensor.data.copy() for name, tensor in tensors}

    def close(self) -> None:
        """Releases the request."""
        del self._request


@dataclass(slots=True, kw_only=True)
class FloatIr:
    """A float model made ready.

    Attributes:
        path: The `.xml` file.
        inputs: Names of its inputs, in order.
        outputs: Names of its outputs, in order.
        scratch: Where results are written to be read by the IR's reader.
        samples: Every calibration sample.
        judge: Judges results on some of them; on nothing where there are none.
        known: What earlier edges of the same run made of it.
        kinds: Its operators.
        noises: Recipe -> what each place of its result does.
    """

    path: Path
    inputs: Sequence[str]
    outputs: Sequence[str]
    scratch: Path
    samples: list[Feeds] = field(default_factory=list)
    judge: Judge = field(default_factory=Judge)
    known: dict[Recipe, IrTrial] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()
    noises: dict[Recipe, Noise] = field(default_factory=dict)

    def read(self, model: openvino.Model) -> QuantizedIr:
        """What the IR's reader says of a model, whose new layers are numbered first: its words name them."""
        from hub_openvino.convert.source_signature import number_names, save

        number_names(model, {node.friendly_name for node in self.model().get_ops()})
        target = self.scratch / "tried.xml"
        save(model, target)
        return QuantizedIr(model, find_numerics(read_ir(target)))

    def arrays(self) -> list[list[Array]]:
        """Every calibration sample as NNCF takes it: arrays in the model's order."""
        return [[feeds[name] for name in self.inputs] for feeds in self.samples]

    def model(self) -> openvino.Model:
        """A fresh copy of the float model."""
        return read_model(self.path)

    def session(self, model: openvino.Model, more: Sequence[str] = ()) -> IrSession:
        """Compiles for the CPU in pinned float32; `more` names inputs that the float model has not.

        Raises:
            StepError: OpenVINO cannot compile it.
        """
        import openvino

        core = openvino.Core()
        try:
            compiled = core.compile_model(model, "CPU", settings_of(core, "CPU", RuntimeOptions()))
        except FAILURES as error:
            raise StepError(f"OpenVINO cannot compile the quantized model: {reason_of(error)}") from error
        return IrSession(compiled, [*self.inputs, *more], self.outputs)


_SHELF: Shelf[FloatIr] = Shelf()


def open_float(path: str, scratch: str, calibration: str) -> FloatIr:
    """Reads a float model; with calibration, runs it on the judged samples.

    The last one is kept, so that the next edge in the same worker finds what was tried already.

    Raises:
        AlreadyQuantized: The file holds quantized layers.
        CalibrationError: A sample does not fit the model.
    """
    source = _SHELF.get(lambda: _open(path, calibration), path, calibration)
    source.path, source.scratch = Path(path), Path(scratch)  # those of the step before are gone
    return source


def forget() -> None:
    """Drops what is kept of the last model."""
    _SHELF.clear()


def _open(path: str, calibration: str) -> FloatIr:
    found = find_numerics(read_ir(Path(path))).numerics
    if found.is_quantized or found is Numerics.FP8:
        raise AlreadyQuantized(f"{Path(path).name} is {found.value} already", hint="start from the float32 model")
    model = read_model(Path(path))
    source = FloatIr(
        path=Path(path),
        inputs=input_names(model),
        outputs=output_names(model),
        scratch=Path(path).parent,
        kinds=frozenset(node.get_type_name() for node in model.get_ops()),
    )
    if calibration:
        source.samples = list(SampleFolder(calibration))
        for feeds in source.samples:
            _check_fit(model, feeds)
        source.judge = Judge.of(source.session(model), source.samples)
    return source


def _check_fit(model: openvino.Model, feeds: Feeds) -> None:
    """Refuses a sample in which an input is missing, of another type, of another shape, or not finite.

    Raises:
        CalibrationError: With what the model takes.
    """
    import numpy as np
    import openvino

    for name, port in zip(input_names(model), model.inputs, strict=True):
        array = feeds.get(name)
        wanted = f"{name}: {port.element_type.get_type_name()}{port.partial_shape}"
        if array is None:
            raise CalibrationError(
                f"calibration holds no input {name}; it has {', '.join(sorted(feeds))}",
                hint=f"the model takes {wanted}",
            )
        same_type = DTYPES.get(port.element_type.get_type_name()) == array.dtype.name.replace("bool_", "bool")
        if not same_type or not port.partial_shape.compatible(openvino.PartialShape(list(array.shape))):
            shape = "x".join(map(str, array.shape))
            raise CalibrationError(
                f"a calibration sample holds {name}: {array.dtype}[{shape}]; the model takes {wanted}"
            )
        if np.issubdtype(array.dtype, np.floating) and not bool(np.isfinite(array).all()):
            raise CalibrationError(f"a calibration sample holds values of {name} that are not finite")
