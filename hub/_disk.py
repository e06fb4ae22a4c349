"""A disk without room, told as such wherever it is met: in hub's own process, or by a framework in a worker."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hub.spec import StoreError, cache_root

_FULL = {errno.ENOSPC, errno.EDQUOT}
_WORDS = tuple(os.strerror(number) for number in _FULL)

_NO_ROOM_BYTES = 1 << 16
"""With less than this a worker cannot write what it answers."""

HINT = "free disk space, or set HUB_CACHE_DIR to a folder with more of it"


def is_full(error: BaseException | None) -> bool:
    """Whether want of room is behind an error; frameworks turn the system's own into others, with its words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_words(error: BaseException) -> str:
    """`no room is left on the disk: [Errno 28] No space left on device`."""
    return f"no room is left on the disk of {cache_root()}, or where the result goes: {error}"


def no_room(folder: Path) -> bool:
    """Whether a folder's disk is full."""
    return shutil.disk_usage(folder).free < _NO_ROOM_BYTES


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """Around everything that a run does.

    Raises:
        StoreError: In place of the system's error, where a disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StoreError(full_words(error), hint=HINT) from error
