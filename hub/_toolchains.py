"""Toolchains: an edge's own environment, built once into the cache with uv from a locked list."""

import hashlib
import importlib
import os
import shutil
import subprocess
from pathlib import Path

import filelock

from hub._store import Store
from hub.spec import Toolchain, ToolchainError

_BUILD_SECONDS = 1200


def toolchain_python(toolchain: Toolchain, packages: tuple[str, ...], store: Store) -> tuple[Path, Path]:
    """Build a toolchain unless it is there; returns its interpreter and a folder for PYTHONPATH.

    The environment holds exactly the locked list. hub and the plugin are not installed into it: the folder links to
    their packages, so that the worker inside runs the same code as outside.

    Raises:
        ToolchainError: uv failed; the message holds its last lines.
    """
    lock = hashlib.sha256(repr(toolchain).encode()).hexdigest()[:16]
    home = store.root / "toolchains" / f"{toolchain.name}-{lock}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{home}.lock"):
        if not (home / "ready").exists():
            _build(toolchain, home)
    return home / "venv" / "bin" / "python", _link_packages(home / "packages", packages)


def _build(toolchain: Toolchain, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    listing = home / "requirements.txt"
    listing.write_text("\n".join(toolchain.requires) + "\n")
    python = home / "venv" / "bin" / "python"
    _uv(toolchain, "venv", "--python", toolchain.python, str(home / "venv"))
    _uv(toolchain, "pip", "install", "--python", str(python), "--no-deps", "-r", str(listing))
    if toolchain.forced:
        told = ("--python", str(python), "--python-version", toolchain.forced_python)
        _uv(toolchain, "pip", "install", *told, "--no-deps", *toolchain.forced)
    (home / "ready").touch()


def _uv(toolchain: Toolchain, *arguments: str) -> None:
    from uv import find_uv_bin

    command = [find_uv_bin(), *arguments, "--quiet"]
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    environment = os.environ | ({"UV_FIND_LINKS": links} if links else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode:
        tail = " ".join(done.stderr.split()[-80:])
        hint = "check the network, then try again; `hub doctor` shows the toolchains"
        raise ToolchainError(f"uv could not build the toolchain {toolchain.name}: {tail}", hint=hint)


def _link_packages(folder: Path, packages: tuple[str, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("hub", *packages):
        origin = importlib.import_module(name).__file__
        link = folder / name
        target = Path(origin or "").parent
        if link.resolve() != target.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return folder
