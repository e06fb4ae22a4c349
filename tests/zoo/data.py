"""Calibration and test data for every model of the zoo, real inputs in the model's own preprocessing.

`write` makes ``calibration.npz`` and ``test.npz``; both are the same on each call and share no photograph, sentence,
face, file or utterance. Arrays are named as the model's inputs. Where the first dimension is a batch, an array is
[N, ...] with one sample per row; the inputs of the voice-activity and the sentence models keep their whole shape, for
instance ``state`` [N, 2, 1, 128].
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.zoo import fetch, speech, text
from tests.zoo.photos import Part, UInt8, crops

Float32 = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[Any]]
Maker = Callable[[Part, int, np.random.Generator], Feeds]
PARTS: tuple[Part, ...] = ("calibration", "test")


class DataSet(NamedTuple):
    """The two files of one model."""

    calibration: Path
    test: Path


def feeds(name: str, part: Part, count: int) -> Feeds:
    """Arrays of ``count`` samples for the model ``name``, the same on every call.

    Raises:
        KeyError: no such model; `MAKERS` has the names.
    """
    seed = (zlib.crc32(name.encode()), PARTS.index(part))
    return MAKERS[name](part, count, np.random.default_rng(seed))


def write(name: str, folder: Path, *, calibration: int = 32, test: int = 16) -> DataSet:
    """Write the model's ``calibration.npz`` and ``test.npz`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = DataSet(folder / "calibration.npz", folder / "test.npz")
    for path, part, count in zip(paths, PARTS, (calibration, test), strict=True):
        np.savez(path, allow_pickle=False, **feeds(name, part, count))
    return paths


# Faces and photographs


def emotion(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Real faces in grey, enlarged from 25x25; ``input_1`` float32 [N, 64, 64, 1] in -1..1."""
    half = np.load(fetch.path("faces"), allow_pickle=False)[:100].reshape(2, 50, 25, 25)[PARTS.index(part)]
    return {"input_1": np.stack([_face(half[number % 50], random) for number in range(count)])}


def _face(face: npt.NDArray[np.float64], random: np.random.Generator) -> Float32:
    """One face, mirrored half of the time and cut one or two pixels narrower at a random place."""
    side = int(random.integers(22, 26))
    top, left = random.integers(26 - side, size=2)
    piece = (face[top : top + side, left : left + side] * 255).astype(np.uint8)[:, :: random.choice((1, -1))]
    large = Image.fromarray(np.ascontiguousarray(piece)).resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32)[..., None] / 127.5 - 1


def _with_faces(name: str, side: int) -> Maker:
    """Photographs with a real face in every second one; float32 [N, side, side, 3] in -1..1."""

    def make(part: Part, count: int, random: np.random.Generator) -> Feeds:
        faces = np.load(fetch.path("faces"), allow_pickle=False)[:100].reshape(2, 50, 25, 25)[PARTS.index(part)]
        images = crops(part, count, (side, side), random)
        for number in range(0, count, 2):
            grey = Image.fromarray((faces[number // 2 % 50] * 255).astype(np.uint8))
            wide = int(random.integers(side // 3, side * 3 // 4))
            top, left = random.integers(side - wide, size=2)
            face = np.asarray(grey.resize((wide, wide), Image.Resampling.BICUBIC))
            images[number, top : top + wide, left : left + wide] = face[..., None]
        return {name: images.astype(np.float32) / 127.5 - 1}

    return make


def efficientnet(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Photograph crops, (x - 127) / 128 as EfficientNet-Lite was trained; ``image`` float32 [N, 3, 224, 224]."""
    image = (crops(part, count, (224, 224), random).astype(np.float32) - 127) / 128
    return {"image": np.ascontiguousarray(image.transpose(0, 3, 1, 2))}


def mobilenet(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Photograph crops in -1..1; ``image`` float32 [N, 96, 96, 3]."""
    return {"image": crops(part, count, (96, 96), random).astype(np.float32) / 127.5 - 1}


# Text in pictures: PP-OCR takes blue-green-red in -1..1


def _ocr(images: UInt8) -> Float32:
    return np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2), np.float32) / 127.5 - 1


def ocr_det(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Photographs with text; ``x`` float32 [N, 3, 320, 320]."""
    return {"x": _ocr(np.stack([np.asarray(text.scene(part, 320, random)) for _ in range(count)]))}


def ocr_rec(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Text lines; ``x`` float32 [N, 3, 48, 320], zero where the line has ended."""
    return {"x": np.stack([_line(text.line(part, random, 22)[0], 320) for _ in range(count)])}


def ocr_cls(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Text lines, half of them upside down; ``x`` float32 [N, 3, 48, 192]."""
    lines = (text.line(part, random, 14)[0] for _ in range(count))
    turned = (image.rotate(180) if number % 2 else image for number, image in enumerate(lines))
    return {"x": np.stack([_line(image, 192) for image in turned])}


def _line(image: Image.Image, width: int) -> Float32:
    """48 pixels high, at most ``width`` wide, zeros to the right of it."""
    wide = min(width, -(-48 * image.width // image.height))
    pixels = np.asarray(image.resize((wide, 48), Image.Resampling.BILINEAR))[None]
    return np.pad(_ocr(pixels)[0], ((0, 0), (0, 0), (0, width - wide)))


# Sound


class Step(NamedTuple):
    """What the voice-activity model takes at one moment: sound [1, 576] and state [2, 1, 128]."""

    sound: Float32
    state: Float32


@cache
def _vad_steps(part: Part) -> tuple[Step, ...]:
    """Every step over six utterances of six seconds each, with the state that the model itself reaches."""
    return tuple(step for seed in range(6) for step in _utterance((PARTS.index(part), seed)))


def _utterance(seed: tuple[int, int]) -> Iterator[Step]:
    """The model gets 512 new samples and the 64 before them (`OnnxWrapper` in the package does the same)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(fetch.path("vad_fixed_onnx"), providers=["CPUExecutionProvider"])
    sound = np.pad(speech.speech(6.0, np.random.default_rng(seed)), (64, 0))
    state = np.zeros((2, 1, 128), np.float32)
    for start in range(0, len(sound) - 576 + 1, 512):
        step = Step(sound[None, start : start + 576], state)
        yield step
        state = session.run(None, {"input": step.sound, "state": step.state})[1]


def _vad(sound: str, *, rate: bool = False) -> Maker:
    def make(part: Part, count: int, random: np.random.Generator) -> Feeds:
        steps = _vad_steps(part)
        chosen = [steps[number] for number in np.sort(random.choice(len(steps), count, replace=False))]
        arrays: Feeds = {sound: np.stack([step.sound for step in chosen])}
        arrays["state"] = np.stack([step.state for step in chosen])
        return {**arrays, "sr": np.full(count, 16_000, np.int64)} if rate else arrays

    return make


# Bytes and words


def magika(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """Files of many kinds out of installed packages; ``bytes`` int32 [N, 2048]."""
    config = json.loads(fetch.path("magika_config").read_text(encoding="utf-8"))
    kinds = _files(part)
    chosen = [kinds[number % len(kinds)] for number in range(count)]
    return {"bytes": np.stack([_ends(files[random.integers(len(files))], config) for files in chosen])}


@cache
def _files(part: Part) -> tuple[tuple[Path, ...], ...]:
    """Files of scikit-learn and NumPy by kind; of each kind every second one belongs to the part.

    Compiled Python is left out: what is there, and its time stamps, differ from one environment to the next.
    """
    import sklearn

    kinds: dict[str, list[Path]] = {}
    for init in (sklearn.__file__, np.__file__):
        for path in sorted(Path(init).parent.rglob("*.*")):
            if path.is_file() and path.stat().st_size > 200 and path.suffix != ".pyc":
                kinds.setdefault(path.suffix, []).append(path)
    common = (files for _, files in sorted(kinds.items()) if len(files) > 1)
    return tuple(tuple(files[PARTS.index(part) :: 2]) for files in common)


def _ends(path: Path, config: dict[str, Any]) -> npt.NDArray[np.int32]:
    """First and last bytes of a file without the white space around them, padded with the padding token."""
    block, content = config["block_size"], path.read_bytes()
    stripped = content.strip()
    first = stripped if len(content) <= block else content[:block].lstrip()
    last = stripped if len(content) <= block else content[-block:].rstrip()
    ints = np.full(config["beg_size"] + config["end_size"], config["padding_token"], np.int32)
    first, last = first[: config["beg_size"]], last[-config["end_size"] :]
    ints[: len(first)], ints[len(ints) - len(last) :] = list(first), list(last)
    return ints


def minilm(part: Part, count: int, random: np.random.Generator) -> Feeds:
    """English sentences of up to 64 tokens; ``input_ids``, ``attention_mask``, ``token_type_ids`` int64 [N, 1, 64]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(fetch.path("minilm_tokenizer")))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64)
    encoded = tokenizer.encode_batch([text.sentence(part, random) for _ in range(count)])
    arrays = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([[getattr(one, field)] for one in encoded], np.int64) for name, field in arrays.items()}


# The project's own samples


def _sample(folder: str, suffix: str = "") -> Maker:
    def make(part: Part, count: int, random: np.random.Generator) -> Feeds:
        with np.load(Path(__file__).parents[2] / "samples" / folder / f"{part}{suffix}.npz") as arrays:
            total = len(arrays[arrays.files[0]])
            rows = np.sort(random.choice(total, count, replace=False))
            return {name: arrays[name][rows] for name in arrays.files if name != "label"}

    return make


MAKERS: dict[str, Maker] = {
    "emotion_h5": emotion,
    "vad_onnx": _vad("input", rate=True),
    "vad_op15_onnx": _vad("input", rate=True),
    "vad_ifless_onnx": _vad("input", rate=True),
    "vad_half_onnx": _vad("input"),
    "vad_fixed_onnx": _vad("input"),
    "vad_core_jit": _vad("x"),
    "ocr_det": ocr_det,
    "ocr_rec": ocr_rec,
    "ocr_cls": ocr_cls,
    "magika_onnx": magika,
    "blazeface_tflite": _with_faces("input", 128),
    "blazeface_far_tflite": _with_faces("input_1", 192),
    "efficientnet": efficientnet,
    "minilm": minilm,
    "mobilenet_keras": mobilenet,
    "digits_torch": _sample("digits_torch"),
    "digits_keras": _sample("digits_keras"),
    "digits_lstm": _sample("digits_keras", "_rows"),
    "digits_gru": _sample("digits_keras", "_rows"),
}
