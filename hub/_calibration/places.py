"""What a calibration spec names: which of its forms it is, where the data lies, and its query."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from hub._request import did_you_mean
from hub.spec import CalibrationError, Remark

FORMS = "data.npz, data.npy, a folder of .npz files, a folder of images with ?size=..., or package.module:function"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
QUERY_KEYS = ("size", "resize", "scale", "mean", "std", "channels", "layout")


class DataSpec(NamedTuple):
    """A spec, taken apart.

    Attributes:
        spec: What the user wrote.
        kind: `npz`, `npy`, `npz-folder`, `images` or `function`.
        path: File or folder.
        query: Preprocessing of images, key -> text.
    """

    spec: str
    kind: str
    path: Path
    query: dict[str, str]


def parse(spec: str) -> DataSpec:
    """Take a spec apart.

    Raises:
        CalibrationError: It is of no form that hub reads, or nothing is there.
    """
    text, mark, query = spec.rpartition("?")
    if not mark or Path(spec).exists():
        text, query = spec, ""
    path = Path(text).expanduser()
    if not text:
        raise CalibrationError("the data spec is empty", hint=f"give {FORMS}")
    if not path.exists():
        return _absent(spec, path)
    kind = _folder_kind(path, query) if path.is_dir() else _file_kind(path)
    if query and kind != "images":
        raise CalibrationError(
            f"{spec}: preprocessing ({query}) is for folders of images", hint=f"give it without the query: {text}"
        )
    return DataSpec(spec, kind, path, _query(query))


def _query(query: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    found: dict[str, str] = {}
    for key, _, value in pairs:
        if key not in QUERY_KEYS:
            raise CalibrationError(f"there is no preprocessing {key!r}", hint=did_you_mean(key, QUERY_KEYS))
        if key in found or not value:
            raise CalibrationError(f"{key!r} needs one value: {query}", hint=f"write it once, as {key}=VALUE")
        found[key] = unquote(value)
    return found


def _absent(spec: str, path: Path) -> DataSpec:
    module, colon, function = spec.partition(":")
    if colon and all(name.isidentifier() for name in (*module.split("."), *function.split("."))):
        return DataSpec(spec, "function", Path(), {})
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, there)
    hint = f"{near} (in {path.parent}/)" if near.startswith("did you mean") else f"give {FORMS}"
    raise CalibrationError(f"there is no file, folder or function {spec!r}", hint=hint)


def _file_kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in {".npz", ".npy"}:
        return suffix[1:]
    advice = f"name its folder: {path.parent}/?size=..." if suffix in IMAGE_SUFFIXES else f"give {FORMS}"
    raise CalibrationError(f"{path} is no calibration data that hub reads ({suffix or 'no suffix'})", hint=advice)


def _folder_kind(path: Path, query: str) -> str:
    arrays, pictures = npz_files(path), image_files(path)
    if arrays and pictures:
        raise CalibrationError(
            f"{path} holds {len(arrays)} .npz files and {len(pictures)} images", hint="keep one kind in the folder"
        )
    if not arrays and not pictures:
        wanted = "images (png, jpg, jpeg, bmp, webp)" if query else ".npz files and no images"
        raise CalibrationError(f"{path} holds no {wanted}: no samples", hint=f"give {FORMS}")
    return "npz-folder" if arrays else "images"


def npz_files(folder: Path) -> list[Path]:
    """The .npz files directly in a folder, in name order, without hidden ones."""
    return _visible(folder.iterdir(), folder, lambda file: file.suffix.lower() == ".npz")


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and below it, in name order, without hidden ones."""
    return _visible(folder.rglob("*"), folder, lambda file: file.suffix.lower() in IMAGE_SUFFIXES)


def unused_files(folder: Path, used: list[Path], what: str) -> list[Remark]:
    """Tell of the files in a folder and below it that are not used; empty when there are none."""
    others = sorted(set(_visible(folder.rglob("*"), folder, lambda _: True)) - set(used))
    suffixes = ", ".join(sorted({file.suffix or file.name for file in others}))
    text = f"{len(others)} files beside the {len(used)} {what} were not used ({suffixes})"
    return [Remark("warning", "data-files-unused", text)] if others else []


def _visible(files: Iterable[Path], folder: Path, keep: Callable[[Path], bool]) -> list[Path]:
    shown = (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return sorted(file for file in shown if file.is_file() and keep(file))
