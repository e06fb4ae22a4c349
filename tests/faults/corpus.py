"""The artifacts of the verdict's score: `python -m tests.faults.corpus FOLDER [WHAT...]`.

What is named is a cell as MODEL/TARGET/PRECISION, all of a MODEL, or `fresh`: models that no bound was chosen on.
Each is converted, with its receipt, into a folder of its model; what is there already is left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from docs.verdict import TUNED_ON
from hub._api import session
from hub._engine import Conversion
from hub._events import Silent
from hub._plugins import Registry
from hub._request import Request, parse_source
from hub.spec import ConvertOptions, HubError, Numerics
from tests.faults import nets
from tests.faults.score import SUFFIXES
from tests.zoo import backends
from tests.zoo.cells import CASES, fetched_flags
from tests.zoo.data import DataSet

PRECISIONS = {
    "onnxruntime": ("int8", "int8-dynamic", "fp16"),
    "openvino": ("int8", "int8-weights", "fp16"),
    "tflite": ("int8", "int8-dynamic", "fp16"),
}
SEEN = (*nets.NETS, "digits-gru", "magika")
"""Held out until decision 82, which mended the check, and chose two bounds, by what they showed."""

FRESH = ("ocr-det", "ocr-rec", "efficientnet-lite0", "minilm", "mobilenet-v2", "vad-torchscript")
"""Models whose artifacts nobody has looked at for a bound: scored once, before anything is mended by them.

`python -m tests.faults.corpus FOLDER fresh` makes theirs, `python -m tests.faults.curve FOLDER` scores them. The last
is the core of `vad-onnx`, on which bounds were chosen, from another framework; mobilenet-v2 has random weights.
"""


def request(folder: Path, name: str, target: str, precision: str) -> Request:
    """What makes one artifact; the model and its data are written once."""
    place = folder / name
    shapes: dict[str, tuple[int, ...]] = {}
    if name in nets.NETS:
        file, given = place / f"{name}.pt2", {}
        model = str(file if file.exists() else nets.write(name, place))
        data = DataSet(place / "calibration.npz", place / "test.npz")
    else:
        case = backends.MODELS.get(name) or CASES[name]
        flags = fetched_flags(case)
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        for text in (text for flag, text in zip(flags[::2], flags[1::2], strict=True) if flag == "--shape"):
            one, _, sizes = text.partition("=")
            shapes[one] = tuple(int(size) for size in sizes.split("x"))
        model, data = case.model(backends.place_of(case, folder)), backends.samples_of(case, folder)
    constants = {"sr": 16000.0} if "--constant" in given else {}
    return Request(
        source=parse_source(model, given.get("--weights", "")),
        target=target,
        numerics=Numerics(precision),
        output=str(place / f"{target}.{precision}{SUFFIXES[target]}"),
        options=ConvertOptions(constants=constants, shapes=shapes),
        calibration=str(data.calibration),
        test=str(data.test),
        fast=True,
        force=True,
    )


def cells(words: Sequence[str]) -> list[str]:
    """The cells that words name."""
    names = [name for word in words for name in (FRESH if word == "fresh" else (word,))]
    every = [f"{target}/{precision}" for target, precisions in PRECISIONS.items() for precision in precisions]
    return [cell for name in names for cell in ([name] if "/" in name else [f"{name}/{one}" for one in every])]


def main() -> None:
    """Make all of them, or those that are named."""
    folder = Path(sys.argv[1])
    with session(Registry()) as runner:
        for cell in cells(sys.argv[2:] or [*SEEN, *sorted(TUNED_ON)]):
            begun = time.monotonic()
            try:
                wanted = request(folder, *cell.split("/"))
                if not Path(wanted.output).exists():
                    Conversion(wanted, runner, Silent()).run()
            except HubError as error:
                print(f"no {cell}: {error.message[:300]}", flush=True)  # noqa: T201 a program for people
                continue
            print(f"{cell}: {time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201 a program for people


if __name__ == "__main__":
    main()
