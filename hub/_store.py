"""The content-addressed cache of finished steps. Only successes are kept; a key names everything a result hangs on."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from hub._files import files_of, sha256_file
from hub._tasks import TaskResult
from hub.spec import StoreError, cache_root

_MANIFEST = "manifest.json"


def _hashes(folder: Path) -> dict[str, str]:
    """Hash every file of a finished step, so that damage to the cache is noticed and never delivered."""
    files = (file for file in files_of(folder) if file != folder / _MANIFEST)
    return {str(file.relative_to(folder)): sha256_file(file) for file in files}


def key_of(*parts: Any) -> str:
    """Hash anything that JSON can hold."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


class Store:
    """Finished step folders by key, and a scratch area for unfinished ones."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()
        self._objects = self.root / "objects"
        self._scratch = self.root / "scratch"
        self.failed = self.root / "failed"
        try:
            for folder in (self._objects, self._scratch, self.failed):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "set HUB_CACHE_DIR to a folder you can write to"
            raise StoreError(f"the cache {self.root} cannot be used: {error}", hint=hint) from error
        self._sweep()

    def place(self, key: str) -> Path:
        """Folder where a finished step of this key lies, or would."""
        return self._objects / key[:2] / key

    def find(self, key: str) -> TaskResult | None:
        """Look up a finished step; a damaged entry counts as absent, and the next that is kept takes its place.

        It is not removed: what looks damaged may be what another run is putting there just now.
        """
        folder = self.place(key)
        if not folder.exists():
            return None
        try:
            result = msgspec.json.decode((folder / "result.json").read_bytes(), type=TaskResult)
            intact = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=dict[str, str]) == _hashes(folder)
        except (OSError, msgspec.DecodeError):
            intact = False
        return result if intact and not result.failure else None

    def forget(self, key: str) -> None:
        """Drop an entry, by one rename: nobody sees half of it."""
        with self.scratch() as aside, contextlib.suppress(OSError):
            self.place(key).rename(aside / key)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend an empty folder; it is removed at the end, and by the next run if this one is killed."""
        folder = Path(tempfile.mkdtemp(prefix=f"{_name_of(psutil.Process())}-", dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, folder: Path, key: str, *, replace: bool = False) -> Path:
        """Move a finished step's folder in, by one rename; when another run was faster, its result is used.

        With `replace` it takes the place of what is there, which another run may be reading: that finds the same files
        under the same names before and after.
        """
        place = self.place(key)
        try:
            (folder / _MANIFEST).write_bytes(msgspec.json.encode(_hashes(folder)))
            place.parent.mkdir(parents=True, exist_ok=True)
            with self.scratch() as aside:
                if replace or self.find(key) is None:
                    with contextlib.suppress(FileNotFoundError):
                        place.rename(aside / key)
                folder.rename(place)
        except OSError as error:
            if not (place / "result.json").exists():
                raise StoreError(f"could not keep a step in the cache: {error}", hint="free disk space") from error
        return place

    def keep_failed(self, folder: Path) -> Path:
        """Move a failed step's folder to where a person can look at it."""
        place = self.failed / folder.name
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(folder, place)
        return place

    def _sweep(self) -> None:
        for folder in self._scratch.iterdir():
            if not _is_running(folder.name.partition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)


def _name_of(process: psutil.Process) -> str:
    """Number and start time: a process number alone comes back, for another process."""
    return f"{process.pid}.{process.create_time():.2f}"


def _is_running(name: str) -> bool:
    number = name.partition(".")[0]
    try:
        return number.isdigit() and _name_of(psutil.Process(int(number))) == name
    except psutil.NoSuchProcess:
        return False
