"""Set up and run hub's own work on a fresh machine: needs Python 3.11 and this folder, nothing else.

    python3.11 dev.py demo    convert the digits model to int8 TFLite and prove it
    python3.11 dev.py test    what CI runs: lint, types, tests of the core and of every plugin
    python3.11 dev.py lint    the quick part
    python3.11 dev.py docs    the documentation site, in build/site
    python3.11 dev.py figures the code's structure in numbers, a row per package
    python3.11 dev.py scheduled    the slow tests, hours

Everything goes into `.venv` and `.tox` here. Running again costs seconds.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BIN = ROOT / ".venv" / "bin"
PLUGINS = [
    f"plugins/{name}"
    for name in (
        "onnxgraph",
        "onnxquant",
        "quanttrials",
        "tflitefile",
        "torchprogram",
        "pytorch",
        "keras[cpu,onnx,torch]",
        "onnxruntime",
        "openvino",
        "tensorrt[rtx]",
        "tflite",
    )
]
DEMO = (
    "convert samples/digits_torch/digits.pt2 --to tflite --int8 --calibration samples/digits_torch/calibration.npz "
    "--test samples/digits_torch/test.npz -o build/digits.int8.tflite --force"
)


def sources(uv: Sequence[str | Path]) -> dict[str, str]:
    """What uv must be told about where packages come from, where the user says nothing; `toxfile.py` asks this too.

    PyPI's torch for Linux is the CUDA build, gigabytes that nothing here uses. The CPU build is taken from the wheels
    that pip or uv was told of, or else through uv's torch backend, where its index can be reached.
    """
    if links := os.environ.get("UV_FIND_LINKS") or ",".join(os.environ.get("PIP_FIND_LINKS", "").split()):
        return {"UV_FIND_LINKS": links}
    if any(os.environ.get(name) for name in ("UV_TORCH_BACKEND", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        return {}
    ask = [*uv, "pip", "compile", "--quiet", "--no-deps", "--torch-backend", "cpu", "-"]
    asked = subprocess.run(ask, input="torch", text=True, capture_output=True, check=False)
    if asked.returncode:
        sys.stderr.write(f"torch comes as its ordinary build, for its CPU builds cannot be reached:\n{asked.stderr}\n")
        return {}
    return {"UV_TORCH_BACKEND": "cpu"}


def call(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command; end with its status when it fails."""
    variables = os.environ | {"VIRTUAL_ENV": str(BIN.parent)} | dict(environment or {})
    status = subprocess.call([str(word) for word in command], cwd=ROOT, env=variables)
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


def install(*words: str) -> None:
    """Install into `.venv`, at the versions of `constraints.txt`."""
    call(BIN / "uv", "pip", "install", "--quiet", "-c", "constraints.txt", *words, environment=sources([BIN / "uv"]))


def install_all() -> None:
    """Install hub and its plugins."""
    install(*(word for folder in (".[page]", *PLUGINS) for word in ("-e", folder)))


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
    install("tox>=4.30", "tox-uv>=1.28")
    call(BIN / "tox", "run", "-e", ",".join(environments))


def main() -> None:
    """Pick the job."""
    jobs = {
        "demo": demo,
        "test": lambda: tox("lint", "type", "core", "docs", "all"),
        "lint": lambda: tox("lint", "type"),
        "docs": lambda: tox("docs"),
        "figures": figures,
        "scheduled": lambda: tox("scheduled"),
    }
    if len(sys.argv) != 2 or sys.argv[1] not in jobs:  # noqa: PLR2004 the program and one word
        sys.exit(f"{__doc__}\nusage: python3.11 dev.py {'|'.join(jobs)}")
    set_up()
    jobs[sys.argv[1]]()


if __name__ == "__main__":
    main()
