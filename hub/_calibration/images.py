"""Images as model input, by a preprocessing that the user states: hub tells what is missing and never guesses it.

value = (pixel * scale - mean) / std, pixel in 0..255, mean and std per channel in the order of `channels`. `resize` is
`stretch` (to the size, whatever the aspect), `crop` (fill the size, cut what sticks out, centred) or `pad` (fit into
the size, centred on black); all of them are Pillow's bilinear filter, which averages when it makes an image smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub._calibration.places import DataSpec, image_files, unused_files
from hub._calibration.rows import Chunk, Shape, shape_text
from hub._request import did_you_mean
from hub.spec import CalibrationError, Dim, DType, Remark, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image as Picture

    from hub._calibration.rows import Array

    Pixels = npt.NDArray[np.float32]

LAYOUTS = ("nchw", "nhwc")
CHANNELS = {"gray": 1, "rgb": 3, "bgr": 3}
RESIZES = ("crop", "stretch", "pad")
_EXAMPLE = {"size": "224x224", "resize": "crop", "scale": "1/255", "mean": "0", "std": "1"}
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # EXIF tag
_RANK = 4
_INTEGER = {DType.INT8: {"scale": "1", "mean": "128"}, DType.UINT8: {"scale": "1"}}


class Preprocessing(NamedTuple):
    """How images become one input.

    Attributes:
        place: The folder.
        name: Input name.
        dtype: numpy name of the input's element type.
        shape: Shape of one sample: batch, then channels, height and width in the order of `layout`.
        layout: `nchw` or `nhwc`.
        channels: `gray`, `rgb` or `bgr`.
        size: Height and width.
        resize: `crop`, `stretch`, `pad`, or empty where not stated (then every image must have the size).
        scale: Factor on pixels.
        mean: One value, or one per channel; subtracted after `scale`.
        std: One value, or one per channel; divided by after `mean`.
        told: What was taken from the model rather than from the user.
    """

    place: DataSpec
    name: str
    dtype: str
    shape: Shape
    layout: str
    channels: str
    size: tuple[int, int]
    resize: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    told: tuple[Remark, ...]


def plan(place: DataSpec, wanted: tuple[TensorSpec, ...]) -> Preprocessing:
    """Settle the preprocessing from the query and the model's input.

    Raises:
        CalibrationError: The model takes no single image, or something is neither stated nor told by the model.
    """
    tensor, instead = wanted[0], "give .npz files with an array per input, or package.module:function"
    if len(wanted) > 1:
        names = ", ".join(tensor.name for tensor in wanted)
        raise CalibrationError(f"images feed one input, the model takes {len(wanted)}: {names}", hint=instead)
    if len(tensor.shape) != _RANK:
        raise CalibrationError(
            f"images are 4-D (batch, channels, height, width), the model takes {tensor}", hint=instead
        )
    told: list[Remark] = []
    layout = _layout(place, tensor, told)
    height, width, depth = (tensor.shape[layout.index(letter)] for letter in "hwc")
    channels = _channels(place, depth, told)
    size = _size(place, height, width)
    scale, mean, std = _arithmetic(place, tensor, channels)
    axes = {"n": tensor.shape[0].size or 1, "c": CHANNELS[channels], "h": size[0], "w": size[1]}
    return Preprocessing(
        place=place,
        name=tensor.name,
        dtype=tensor.dtype.value,
        shape=tuple(axes[letter] for letter in layout),
        layout=layout,
        channels=channels,
        size=size,
        resize=_choice(place, "resize", RESIZES),
        scale=scale,
        mean=mean,
        std=std,
        told=tuple(told),
    )


def _choice(place: DataSpec, key: str, known: tuple[str, ...]) -> str:
    value = place.query.get(key, "").lower()
    if value and value not in known:
        raise CalibrationError(f"there is no {key} {value!r}", hint=did_you_mean(value, known))
    return value


def suggestion(place: DataSpec, **settled: str) -> str:
    """The spec to write: what the user stated, what the model tells, and an example of the rest."""
    query = _EXAMPLE | place.query | settled
    pairs = "&".join(f"{key}={value}" for key, value in query.items())
    return f"'{place.path}/?{pairs}'"


def _state(place: DataSpec, what: str, **settled: str) -> CalibrationError:
    return CalibrationError(
        f"{place.spec}: {what}",
        hint=f"state what the model was trained with, such as: {suggestion(place, **settled)}",
    )


def _layout(place: DataSpec, tensor: TensorSpec, told: list[Remark]) -> str:
    stated = _choice(place, "layout", LAYOUTS)
    fits = [layout for layout in LAYOUTS if tensor.shape[layout.index("c")].size in CHANNELS.values()]
    if stated:
        depth = tensor.shape[stated.index("c")].size
        if depth is not None and depth not in CHANNELS.values():
            (other,) = {*LAYOUTS} - {stated}
            raise _state(place, f"layout={stated} gives {depth} channels in {tensor}", layout=other)
        return stated
    derived = tensor.layout.lower() if tensor.layout.lower() in fits else ""
    if not derived and len(fits) != 1:
        raise _state(place, f"the layout is not stated and {tensor} does not tell it", layout="nchw")
    text = f"layout {derived or fits[0]}: taken from the model's input {tensor}"
    told.append(Remark("note", "image-layout-guessed", text))
    return derived or fits[0]


def _channels(place: DataSpec, depth: Dim, told: list[Remark]) -> str:
    stated = _choice(place, "channels", tuple(CHANNELS))
    if stated and depth.size not in {None, CHANNELS[stated]}:
        right = "gray" if depth.size == 1 else "rgb"
        raise CalibrationError(
            f"channels={stated} is {CHANNELS[stated]} channels, the model takes {depth}", hint=f"channels={right}"
        )
    if not stated and depth.size is None:
        raise _state(
            place, f"the channels are not stated and the model's own number of them is open ({depth})", channels="rgb"
        )
    if stated:
        return stated
    derived = "gray" if depth.size == 1 else "rgb"
    also = "" if depth.size == 1 else "; if it was trained on OpenCV images, say channels=bgr"
    text = f"channels {derived}: taken from the model's {depth} channels{also}"
    told.append(Remark("note", "image-channels-guessed", text))
    return derived


def _size(place: DataSpec, height: Dim, width: Dim) -> tuple[int, int]:
    stated = _stated_size(place)
    own = (height.size, width.size)
    if stated is None:
        if own[0] is None or own[1] is None:
            raise _state(place, f"the size is not stated and the model leaves it open ({height}x{width})")
        return own[0], own[1]
    if own[0] not in {None, stated[0]} or own[1] not in {None, stated[1]}:
        raise CalibrationError(
            f"size={place.query['size']} is not what the model takes: {height}x{width} (height x width)",
            hint=f"size={height if own[0] else stated[0]}x{width if own[1] else stated[1]}",
        )
    return stated


def _stated_size(place: DataSpec) -> tuple[int, int] | None:
    text = place.query.get("size")
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):  # noqa: PLR2004 height and width
        raise CalibrationError(f"size={text} is no size", hint="write size=HEIGHTxWIDTH, such as size=224x224")
    return int(parts[0]), int(parts[-1])


def _arithmetic(
    place: DataSpec, tensor: TensorSpec, channels: str
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    missing = [key for key in ("scale", "mean", "std") if key not in place.query]
    raw = tensor.dtype is DType.UINT8 and len(missing) == 3  # noqa: PLR2004 none of the three: pixels as they are
    if missing and not raw:
        own = [dim for dim in tensor.shape[1:] if dim.size not in CHANNELS.values()]
        fixed = len(own) == 2 and all(dim.size for dim in own)  # noqa: PLR2004 height and width
        size = _stated_size(place) or (own if fixed else ())
        kept = ({"size": shape_text(size)} if size else {}) | _INTEGER.get(tensor.dtype, {}) | place.query
        raise _state(place, f"{', '.join(missing)} not stated, and {tensor} does not tell them", **kept)
    (scale,) = _numbers(place, "scale", "1", 1)
    mean = _numbers(place, "mean", "0", CHANNELS[channels])
    std = _numbers(place, "std", "1", CHANNELS[channels])
    if scale == 0 or 0 in std:
        raise CalibrationError(f"{place.spec}: scale and std cannot be 0", hint="scale=1 and std=1 change nothing")
    return scale, mean, std


def _numbers(place: DataSpec, key: str, default: str, most: int) -> tuple[float, ...]:
    parts = place.query.get(key, default).split(",")
    try:
        values = tuple(float(Fraction(part.strip())) for part in parts)
    except (ValueError, ZeroDivisionError):
        values = ()
    if len(values) not in {1, most}:
        allowed = "one number" if most == 1 else f"one number or {most}, separated by commas"
        raise CalibrationError(
            f"{key}={place.query[key]} is not {allowed}", hint=f"such as {key}={_EXAMPLE[key]} (fractions are fine)"
        )
    return values


def read(how: Preprocessing, notes: dict[Remark, int]) -> Iterator[Chunk]:
    """Read the images in name order, a batch of them at a time.

    Raises:
        CalibrationError: A file is no image, is truncated, has more than 8 bits, or has another size and no `resize`.
    """
    import numpy as np

    files = image_files(how.place.path)
    unused = unused_files(how.place.path, files, "images")
    notes.update(dict.fromkeys([*how.told, *unused], 1))
    batch = how.shape[0]
    for start in range(0, len(files), batch):
        group = files[start : start + batch]
        rows = np.stack([_input(how, file, notes) for file in group])
        yield Chunk(group[0].name if batch == 1 else f"{group[0].name} to {group[-1].name}", {how.name: rows})


def _input(how: Preprocessing, file: Path, notes: dict[Remark, int]) -> Array:
    import numpy as np

    pixels = np.asarray(_fitted(how, _picture(file, how, notes), file), dtype=np.float32)
    pixels = pixels.reshape(*how.size, CHANNELS[how.channels])
    ordered = pixels[:, :, ::-1] if how.channels == "bgr" else pixels
    mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
    value: Pixels = (ordered * np.float32(how.scale) - mean) / std
    return _typed(how, value.transpose(2, 0, 1) if how.layout == "nchw" else value, file)


def _typed(how: Preprocessing, value: Pixels, file: Path) -> Array:
    import numpy as np

    if DType(how.dtype).is_float:
        return value.astype("float32" if how.dtype == DType.BFLOAT16 else how.dtype)
    whole = np.rint(value)
    bounds = np.iinfo(how.dtype)
    if np.abs(whole - value).max() > 1e-3 or whole.min() < bounds.min or whole.max() > bounds.max:  # noqa: PLR2004
        raise CalibrationError(
            f"{file.name}: the preprocessing gives {value.min():g} to {value.max():g}, {how.name} takes {how.dtype}",
            hint="integer inputs take whole numbers: scale=1&std=1, with mean=0 for uint8 and mean=128 for int8",
        )
    return whole.astype(how.dtype)


def _picture(file: Path, how: Preprocessing, notes: dict[Remark, int]) -> Picture:
    import warnings

    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(file) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened.load()
            _note_image(opened, notes)
            turned = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise CalibrationError(
            f"{file} cannot be read as an image ({file.stat().st_size} bytes): {error}",
            hint="leave it out, or save it again",
        ) from error
    if turned.mode in _DEEP_MODES:
        raise CalibrationError(
            f"{file.name} has more than 8 bits per channel (mode {turned.mode})",
            hint="save it with 8 bits, or read it yourself: package.module:function",
        )
    return turned.convert("L" if how.channels == "gray" else "RGB")


def _note_image(image: Picture, notes: dict[Remark, int]) -> None:
    found = []
    if image.getexif().get(_ORIENTATION, 1) != 1:
        found.append(Remark("note", "image-turned", "turned upright by the EXIF orientation"))
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        found.append(Remark("warning", "image-transparency-dropped", "transparency was dropped"))
    if getattr(image, "n_frames", 1) > 1:
        found.append(Remark("warning", "image-first-frame", "only the first frame was used"))
    for note in found:
        notes[note] = notes.get(note, 0) + 1


def _fitted(how: Preprocessing, image: Picture, file: Path) -> Picture:
    from PIL import Image, ImageOps

    height, width = how.size
    if image.size == (width, height):
        return image
    if not how.resize:
        raise _state(
            how.place,
            f"{file.name} is {image.height}x{image.width}, the input {height}x{width}, and resize is not stated",
            size=shape_text(how.size),
        )
    if how.resize == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    fit = {"crop": ImageOps.fit, "pad": ImageOps.pad}[how.resize]
    return fit(image, (width, height), method=Image.Resampling.BILINEAR)
