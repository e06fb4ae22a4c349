"""Calibration and test data: one spec string for any model, checked and written as one .npz per sample.

A spec is `data.npz` (an array per input name), `data.npy` (models with one input), a folder of `.npz` files, a folder
of images with its preprocessing (`photos/?size=224x224&resize=crop&scale=1/255&mean=0&std=1`), or
`package.module:function`. numpy and Pillow are imported when data is read, never before.
"""

import shutil
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path

import msgspec

from hub._calibration import images, places, rows, samples, sources
from hub.spec import CalibrationError, Remark, ShapeNeeded, Signature

__all__ = ["LoadedSamples", "infer_shapes", "load_samples", "split"]

HELD_OUT_EVERY = 5
HELD_OUT_MOST = 64

CallFunction = Callable[[str, Path], int]


class LoadedSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Checked samples on disk.

    Attributes:
        folder: Holds `00000000.npz` and so on: one per sample, arrays by input name, shapes and dtypes exactly as the
            model takes them (batch dimension included).
        count: Number of samples.
        fingerprint: sha256 over the sha256 of each sample in order, which is over the name, dtype, shape and bytes of
            each input in the model's order (`name NUL dtype NUL shape NUL bytes`).
        remarks: What the checks found and let pass, each with its values.
        labels: Class indices, where the data has an integer array `label` or `labels` that is no input; `count` of
            them, or `count` times the rows of a sample, in row order.
    """

    folder: str
    count: int
    fingerprint: str
    remarks: tuple[Remark, ...] = ()
    labels: tuple[int, ...] = ()


def load_samples(  # noqa: PLR0913 keywords but for the two that every caller has
    spec: str,
    signature: Signature,
    *,
    into: Path,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Container[str],
    call_function: CallFunction,
    calibrates: bool = True,
) -> LoadedSamples:
    """Read, check and write the samples that `spec` names.

    Args:
        spec: Where the data is.
        signature: What the source model takes.
        into: Empty or new folder for the samples.
        shapes: Input -> fixed shape, for symbolic dimensions.
        constants: Inputs that are frozen away; the data needs no array for them.
        call_function: Runs `package.module:function` in a worker, writes its samples to a folder, returns the count.
        calibrates: Whether ranges are to be measured on them: then one value throughout, or one sample, will not do.

    Raises:
        CalibrationError: The data does not fit the model; the message has the values.
    """
    place = places.parse(spec)
    wanted = rows.wanted_inputs(signature, shapes, constants)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".hub-samples-") as scratch:
        source = sources.DataSource(place, wanted, constants, call_function, Path(scratch).resolve())
        written = samples.write(source, into, calibrates=calibrates)
    return LoadedSamples(
        folder=str(into),
        count=written.count,
        fingerprint=written.fingerprint,
        remarks=written.remarks,
        labels=written.labels,
    )


def infer_shapes(
    spec: str,
    signature: Signature,
    constants: Container[str],
    *,
    call_function: CallFunction,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Tell the fixed shape of each input with symbolic dimensions from the data; a batch dimension becomes 1.

    Raises:
        CalibrationError: The data does not fit the model.
        ShapeNeeded: The samples have several shapes, so none of them is the model's.
    """
    place = places.parse(spec)
    wanted = rows.wanted_inputs(signature, shapes or {}, constants)
    if all(tensor.is_static for tensor in wanted):
        return {}
    if place.kind == "images":
        found = {wanted[0].name: {images.plan(place, wanted).shape}}
    else:
        with tempfile.TemporaryDirectory(prefix="hub-samples-") as scratch:
            found = {tensor.name: set() for tensor in wanted}
            for chunk in sources.DataSource(place, wanted, constants, call_function, Path(scratch)).chunks():
                for name, cut in rows.cuts_of(chunk, wanted).items():
                    found[name].add(cut.shape)
    return {tensor.name: _only(tensor.name, found[tensor.name]) for tensor in wanted if not tensor.is_static}


def _only(name: str, shapes: set[tuple[int, ...]]) -> tuple[int, ...]:
    if not shapes:
        raise CalibrationError(f"the data has no samples, so the shape of {name} is open", hint=f"--shape {name}=...")
    if len(shapes) > 1:
        some = ", ".join(rows.shape_text(shape) for shape in sorted(shapes)[:4])
        largest = rows.shape_text(max(sizes) for sizes in zip(*shapes, strict=True))
        raise ShapeNeeded(
            f"the samples of {name} have {len(shapes)} different shapes: {some}",
            hint=f"pad the data to one shape and give it: --shape {name}={largest}",
        )
    return shapes.pop()


def split(loaded: LoadedSamples, into: Path) -> tuple[LoadedSamples, LoadedSamples]:
    """Part the samples into those for calibration and those held out for the parity check.

    Every fifth sample is held out, at least 1 and at most 64 (spread evenly). The same samples give the same parts;
    both keep the remarks.

    Args:
        loaded: At least two samples.
        into: Gets the folders `calibration` and `held-out` with hard links, or copies where links are not possible.

    Raises:
        CalibrationError: There are fewer than two samples.
    """
    if loaded.count < 2:  # noqa: PLR2004 one to calibrate, one to compare
        raise CalibrationError(
            f"{loaded.count} sample cannot be parted into calibration and comparison",
            hint="give at least two samples (some 100 are usual), or separate data for the comparison with --test",
        )
    every = list(range(HELD_OUT_EVERY - 1, loaded.count, HELD_OUT_EVERY)) or [loaded.count - 1]
    most = min(len(every), HELD_OUT_MOST)
    held = [every[index * len(every) // most] for index in range(most)]
    kept = [index for index in range(loaded.count) if index not in held]
    return _part(loaded, kept, into / "calibration"), _part(loaded, held, into / "held-out")


def _part(loaded: LoadedSamples, indices: list[int], folder: Path) -> LoadedSamples:
    folder.mkdir(parents=True, exist_ok=True)
    for new, old in enumerate(indices):
        _link(samples.file_of(Path(loaded.folder), old), samples.file_of(folder, new))
    each = len(loaded.labels) // loaded.count
    labels = tuple(label for index in indices for label in loaded.labels[index * each : (index + 1) * each])
    fingerprint = samples.fingerprint_of(folder)
    return msgspec.structs.replace(
        loaded, folder=str(folder), count=len(indices), fingerprint=fingerprint, labels=labels
    )


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
