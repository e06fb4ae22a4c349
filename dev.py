"""Set up and run hub's own work on a fresh machine: needs Python 3.11 and this folder, nothing else.

    python3.11 dev.py demo    convert the digits model to int8 TFLite and prove it
    python3.11 dev.py test    what CI runs: lint, types, tests of the core and of every plugin
    python3.11 dev.py lint    the quick part
    python3.11 dev.py docs    the documentation site, in build/site
    python3.11 dev.py figures the code's structure in numbers, a row per package

Everything goes into `.venv` and `.tox` here. Running again costs seconds.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BIN = ROOT / ".venv" / "bin"
PLUGINS = [
    f"plugins/{name}"
    for name in ("onnxgraph", "quanttrials", "pytorch", "keras[cpu,torch]", "onnxruntime", "openvino", "tflite")
]
DEMO = (
    "convert samples/digits_torch/digits.pt2 --to tflite --int8 --calibration samples/digits_torch/calibration.npz "
    "--test samples/digits_torch/test.npz -o build/digits.int8.tflite --force"
)


def call(*command: str | Path) -> None:
    """Run a command; end with its status when it fails. uv looks for local wheels where pip does."""
    environment = os.environ | {"VIRTUAL_ENV": str(BIN.parent)}
    links = environment.get("UV_FIND_LINKS") or environment.get("PIP_FIND_LINKS")
    environment |= {"UV_FIND_LINKS": links} if links else {}
    status = subprocess.call([str(word) for word in command], cwd=ROOT, env=environment)
    if status:
        sys.exit(status)


def set_up() -> None:
    """Make `.venv` with uv in it."""
    if sys.version_info[:2] < (3, 11):  # noqa: UP036 this file must say so itself
        sys.exit(f"hub needs Python 3.11 or newer; this is {sys.version.split()[0]}. Run: python3.11 dev.py")
    if not (BIN / "python").exists():
        venv.create(ROOT / ".venv", with_pip=True)
    if not (BIN / "uv").exists():
        call(BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv")


def install_all() -> None:
    """Install hub and its plugins into `.venv`, at the versions of `constraints.txt`."""
    editable = [word for folder in (".", *PLUGINS) for word in ("-e", folder)]
    call(BIN / "uv", "pip", "install", "--quiet", "-c", "constraints.txt", *editable)


def demo() -> None:
    """The main job on a real model."""
    install_all()
    call(BIN / "hub", *DEMO.split())


def figures() -> None:
    """What the structure tests bound."""
    install_all()
    call(BIN / "python", "docs/figures.py")


def tox(*environments: str) -> None:
    """Run tox environments."""
    call(BIN / "uv", "pip", "install", "--quiet", "-c", "constraints.txt", "tox>=4.30", "tox-uv>=1.28")
    call(BIN / "tox", "run", "-e", ",".join(environments))


def main() -> None:
    """Pick the job."""
    jobs = {
        "demo": demo,
        "test": lambda: tox("lint", "type", "core", "docs", "all"),
        "lint": lambda: tox("lint", "type"),
        "docs": lambda: tox("docs"),
        "figures": figures,
    }
    if len(sys.argv) != 2 or sys.argv[1] not in jobs:  # noqa: PLR2004 the program and one word
        sys.exit(f"{__doc__}\nusage: python3.11 dev.py {'|'.join(jobs)}")
    set_up()
    jobs[sys.argv[1]]()


if __name__ == "__main__":
    main()
