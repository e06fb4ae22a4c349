"""The head of a plan: whose it is, of which version, and how long. Nothing is deserialized."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hub.spec import Identification, ModelUnreadable
from hub_tensorrt.libraries import Library, library_of

FORMAT = "tensorrt"
SUFFIXES = (".engine", ".plan")
HEAD_BYTES = 28
"""Both libraries write 4 bytes of magic, 4 of the serialization's version, 8 of flags, 8 of length and 4 of version."""

_AGAIN = "build it again from its .precision.onnx: hub convert MODEL.precision.onnx --to tensorrt"


class Head(NamedTuple):
    """What the first bytes of a plan say.

    Attributes:
        library: Whose plan it is.
        version: `1.7.1.116`.
        length: Bytes of the whole plan; 0 where it is not said.
    """

    library: Library
    version: str
    length: int


def read_head(content: bytes) -> Head | None:
    """Read the head of a plan; None for anything else, or a shorter one."""
    library = library_of(content[:4])
    if library is None or len(content) < HEAD_BYTES:
        return None
    length = int.from_bytes(content[16:24], "little")
    return Head(library, ".".join(str(byte) for byte in content[24:28]), length)


def check_plan(path: Path) -> Head:
    """Read a plan's head and hold its length against the file's.

    Raises:
        ModelUnreadable: It is none, or truncated, or something hangs behind it.
    """
    with path.open("rb") as file:
        head = read_head(file.read(HEAD_BYTES))
    size = path.stat().st_size
    if head is None:
        raise ModelUnreadable(f"{path.name} is no whole TensorRT plan: {size} bytes", hint=_AGAIN)
    # The last piece is padded to its own alignment, which the length that RTX writes counts and older TensorRTs do not.
    if head.length > size or (head.library.ahead and head.length != size):
        message = f"{path.name} has {size} bytes, and its head says {head.length}: it is truncated or damaged"
        raise ModelUnreadable(message, hint=_AGAIN)
    return head


def identify(path: Path, header: bytes) -> Identification | None:
    """Recognise a plan by its magic.

    Raises:
        ModelUnreadable: It ends inside its head.
    """
    library = library_of(header[:4])
    if library is None:
        return None
    head = read_head(header)
    if head is None:
        raise ModelUnreadable(f"{path.name} ends inside the head of a {library.title} plan", hint=_AGAIN)
    return Identification(format=FORMAT, detail=f"a plan of {library.title} {head.version}")
