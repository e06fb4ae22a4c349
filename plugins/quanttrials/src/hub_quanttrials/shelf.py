"""What was made of a model and its samples, kept for the next step in the same process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from hub.spec import SampleFolder

Held = TypeVar("Held")


class Shelf(Generic[Held]):
    """Holds the last thing made, until its files or settings are others.

    hub tries int8 and then, where that fails its gate, int8-mixed in the same process: the second finds the float model
    opened, the samples run, and what was tried already. Each step has its own copy of the model, which is gone when
    the step is done: what is held must not read it again.
    """

    def __init__(self) -> None:
        self._held: tuple[Hashable, Held] | None = None

    def get(
        self, make: Callable[[], Held], model: str | Path, calibration: str | Path = "", settings: Hashable = ()
    ) -> Held:
        """Returns what is held, or makes it.

        Args:
            make: Makes it.
            model: The model's file or folder, known by its bytes; a file's side files, whose names start with its stem,
                count too.
            calibration: Folder of samples; empty for none.
            settings: Whatever else it hangs on.
        """
        samples = SampleFolder(calibration).files if calibration else ()
        stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in samples)
        key = (settings, stamps, tuple(_contents(Path(model))))
        if self._held is None or self._held[0] != key:
            self._held = None  # let go first: two float models need not fit into memory
            self._held = key, make()
        return self._held[1]

    def clear(self) -> None:
        """Lets it go."""
        self._held = None


def _contents(model: Path) -> Iterator[tuple[str, str]]:
    """Place in the model's folder and hash of each of its files."""
    folder = model if model.is_dir() else model.parent
    for file in sorted(folder.rglob("*") if model.is_dir() else folder.glob("*")):
        if file.is_file() and (model.is_dir() or file.name.startswith(model.stem)):
            with file.open("rb") as opened:
                yield str(file.relative_to(folder)), hashlib.file_digest(opened, "sha256").hexdigest()
