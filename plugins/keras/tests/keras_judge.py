"""Judge an edge: convert many models, run each result in a runtime of its own, compare with Keras at two sizes.

`prepare` writes models and references with TensorFlow. `judge` converts and compares; for an edge on Keras' torch
backend it starts a process of its own, because the backend is fixed when Keras is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plugins.keras.tests import keras_layer_zoo, keras_networks, keras_open_networks

Arrays = dict[str, npt.NDArray[Any]]
Result = tuple[list[str], list[str], Callable[[Arrays], list[npt.NDArray[Any]]]]
PARITY = 1e-4  # float32 rounding through the deepest of these networks (mobilenet: 6e-6), with room


@dataclass
class Verdicts:
    """What became of each model.

    Attributes:
        passed: Name -> largest relative error over both sizes.
        refused: Name -> reason, of the edge or of the runtime.
        wrong: Name -> what differs.
    """

    passed: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def line(self, edge: str) -> str:
        worst = max(self.passed.values(), default=0.0)
        return (
            f"{edge}: {len(self.passed)} passed (largest relative error {worst:.0e}), {len(self.refused)} refused "
            f"({', '.join(self.refused) or 'none'}), {len(self.wrong)} wrong {self.wrong or ''}"
        )


LAYERS = keras_layer_zoo.NAMES
NETWORKS = (*keras_networks.NAMES, *keras_open_networks.NAMES)


def _model(name: str) -> Any:
    if name in keras_layer_zoo.CASES:
        return keras_layer_zoo.CASES[name].build()
    return (keras_networks if name in keras_networks.NAMES else keras_open_networks).build(name)


def feeds(name: str, size: int) -> Arrays:
    """Inputs at the first or second size of everything that is open: batches of 1 and 3, other times and heights."""
    if name in keras_open_networks.NAMES:
        return keras_open_networks.feeds(name, size)
    draw = keras_layer_zoo.feeds if name in keras_layer_zoo.CASES else keras_networks.feeds
    return draw(name, seed=size, batch=(1, 3)[size])


def prepare(names: Iterable[str], folder: Path, *, saved_model: bool = False) -> None:
    """Write `<name>.keras`, or a SavedModel folder `<name>`, and `<name>.<size>.npz` with feeds and Keras' outputs."""
    from hub_keras.load import load_model

    for name in names:
        path = folder / (name if saved_model else f"{name}.keras")
        model = _model(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if saved_model:
                model.export(path, verbose=False)
            else:
                model.save(path)
            loaded = load_model(path)
            for size in (0, 1):
                given = feeds(name, size)
                outputs = loaded.call([given[spec.name] for spec in loaded.signature.inputs])
                keyed = {f"in:{spec.name}": given[spec.name] for spec in loaded.signature.inputs}
                keyed |= {
                    f"out:{spec.name}": np.asarray(value)
                    for spec, value in zip(loaded.signature.outputs, outputs, strict=True)
                }
                np.savez(folder / f"{name}.{size}.npz", allow_pickle=False, **keyed)


def reference(name: str, size: int, folder: Path) -> tuple[Arrays, Arrays]:
    """Feeds and expected outputs by name, in order."""
    with np.load(folder / f"{name}.{size}.npz") as stored:
        sides = [{key[len(side) :]: stored[key] for key in stored if key.startswith(side)} for side in ("in:", "out:")]
    return sides[0], sides[1]


def judge(edge: str, names: Sequence[str], folder: Path) -> Verdicts:
    """Convert and compare, in this process or in one on the backend that the edge needs."""
    from hub_keras.edges import BY_ID

    wanted = BY_ID[edge].environment
    if all(os.environ.get(key) == value for key, value in wanted.items()):
        return judge_here(edge, names, folder)
    done = subprocess.run(
        [sys.executable, "-m", "plugins.keras.tests.keras_judge", edge, str(folder), *names],
        env={**os.environ, **wanted},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return Verdicts(**json.loads(done.stdout.splitlines()[-1]))


def judge_here(
    edge: str, names: Iterable[str], folder: Path, spoil: Callable[[Path], None] = lambda _: None
) -> Verdicts:
    """Convert and compare in this process.

    Args:
        edge: Id.
        names: Models that `prepare` has written.
        folder: Where.
        spoil: Called with each result before it is run: to plant a fault.
    """
    from hub.spec import HubError

    found = Verdicts()
    for name in names:
        output = folder / f"{name}.{edge}{_suffix(edge)}"
        try:
            _convert(edge, name, output, folder)
            spoil(output)
            result = _OPENERS[output.suffix](output)
        except (HubError, _Refused) as error:
            found.refused[name] = str(error)[:300]
            continue
        _compare(name, result, folder, found, _sizes(edge))
    return found


class _Refused(Exception):
    """A runtime does not take the file."""


class _Broken(Exception):
    """A runtime takes the file, and fails on inputs that the model takes."""


def _suffix(edge: str) -> str:
    from hub_keras.edges import BY_ID

    return {"onnx": ".onnx", "pytorch": ".pt2", "tflite": ".tflite"}[BY_ID[edge].gives.format]


def _convert(edge: str, name: str, output: Path, folder: Path) -> None:
    from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, Numerics, Signature, State
    from hub_keras.edges import BY_ID

    scratch = folder / f"{output.name}.scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    engine = BY_ID[edge]
    path = folder / f"{name}.keras" if (folder / f"{name}.keras").exists() else folder / name  # a SavedModel
    fixed = {} if engine.keeps_dynamic else {key: value.shape for key, value in reference(name, 1, folder)[0].items()}
    nothing = Signature(inputs=(), outputs=())
    source = ModelArtifact(path=str(path), state=State(format="keras"), signature=nothing, sha256="", size_bytes=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.convert(
            ConvertJob(
                target=engine.gives.states(Numerics.FP32)[0],
                source=source,
                output=str(output),
                scratch=str(scratch),
                options=ConvertOptions(shapes=fixed),
            )
        )


def _sizes(edge: str) -> tuple[int, ...]:
    """An edge that keeps dimensions open is held to both sizes, another one to the size that it was given."""
    from hub_keras.edges import BY_ID

    return (0, 1) if BY_ID[edge].keeps_dynamic else (1,)


def _compare(name: str, result: Result, folder: Path, found: Verdicts, sizes: tuple[int, ...]) -> None:
    inputs, outputs, run = result
    worst = 0.0
    for size in sizes:
        given, expected = reference(name, size, folder)
        if (inputs, outputs) != (list(given), list(expected)):
            found.wrong[name] = f"names {inputs} -> {outputs}, not {list(given)} -> {list(expected)}"
            return
        try:
            made = run(given)
        except _Broken as error:
            found.wrong[name] = f"size {size}: {error}"[:300]
            return
        words = list(_differences(dict(zip(outputs, made, strict=True)), expected))
        if words:
            found.wrong[name] = f"size {size}: {'; '.join(words)}"
            return
        worst = max([worst, *(_relative(a, b) for a, b in zip(made, expected.values(), strict=True))])
    found.passed[name] = worst


def _differences(made: Arrays, expected: Arrays) -> Iterator[str]:
    for name, value in expected.items():
        if (made[name].shape, made[name].dtype) != (value.shape, value.dtype):
            yield f"{name} is {made[name].dtype}{made[name].shape}, not {value.dtype}{value.shape}"
        elif not _relative(made[name], value) < PARITY:
            yield f"{name} differs by {_relative(made[name], value):.1e}"


def _relative(made: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    first, second = made.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(first - second).max() / max(np.abs(second).max(), 1e-6))


def _open_onnx(path: Path) -> Result:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (state.Fail, state.InvalidGraph, state.NotImplemented, state.RuntimeException) as error:
        raise _Refused(f"ONNX Runtime: {error}") from error
    names = [spec.name for spec in session.get_outputs()]

    def run(given: Arrays) -> list[npt.NDArray[Any]]:
        try:
            return [np.asarray(value) for value in session.run(names, given)]
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            raise _Broken(f"ONNX Runtime: {error}") from error

    return [spec.name for spec in session.get_inputs()], names, run


def _open_program(path: Path) -> Result:
    import torch

    extra = {"hub.json": ""}
    program = torch.export.load(path, extra_files=extra)
    names, module = json.loads(extra["hub.json"]), program.module(check_guards=False)

    def run(given: Arrays) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            made = module(*(torch.from_numpy(value) for value in given.values()))
        return [tensor.numpy() for tensor in made]

    return names["inputs"], names["outputs"], run


def _open_tflite(path: Path) -> Result:
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path))
    runner = opened.get_signature_runner("serving_default")
    inputs, outputs = ([d["name"] for d in side] for side in (opened.get_input_details(), opened.get_output_details()))

    def run(given: Arrays) -> list[npt.NDArray[Any]]:
        made = runner(**given)
        return [np.array(made[name]) for name in outputs]

    return inputs, outputs, run


_OPENERS: dict[str, Callable[[Path], Result]] = {
    ".onnx": _open_onnx,
    ".pt2": _open_program,
    ".tflite": _open_tflite,
}


if __name__ == "__main__":
    judged = judge_here(sys.argv[1], sys.argv[3:], Path(sys.argv[2]))
    print(json.dumps(vars(judged)))  # noqa: T201 the answer of this process
