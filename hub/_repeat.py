"""A conversion that was done before, of the same files with the same tools: its artifact and its receipt again.

Nothing is run or compared a second time: the artifact has the bytes that were compared.
"""

import datetime as dt
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from hub import _plugins, _requirements
from hub._files import check_output, check_side_files, encode_receipt, publish, receipt_path, sha256_model, with_digest
from hub._request import Request
from hub._store import Store, key_of
from hub._tasks import TaskResult
from hub._version import VERSION
from hub.spec import Receipt, processor
from hub.spec.hooks import ENTRY_POINT_GROUP

SEARCH_ENDED = "search-ended-early"
"""The code of the remark on a search that was not gone through to its end."""


def repeated(request: Request) -> Receipt | None:
    """Deliver a conversion from the cache; None where it was not done before.

    Raises:
        HubError: The output path cannot be written.
    """
    inputs = _inputs(request)
    key = _key(request) if request.use_cache else ""
    if not key:
        return None
    check_output(request.destination, force=request.force, inputs=inputs)
    store = Store()
    if store.find(key) is None:
        return None
    folder = store.place(key)
    receipt = msgspec.json.decode((folder / "receipt.json").read_bytes(), type=Receipt)
    if any(_requirements.version_of(tool) != version for step in receipt.steps for tool, version in step.tools.items()):
        return None
    receipt = msgspec.structs.replace(
        receipt,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        result=msgspec.structs.replace(receipt.result, path=str(request.destination.absolute())),
        steps=tuple(msgspec.structs.replace(step, cached=True) for step in receipt.steps),
        speed=msgspec.structs.replace(receipt.speed, cached=True) if receipt.speed else None,
    )
    receipt = with_digest(receipt)
    artifact = folder / "out" / request.destination.name
    side = sorted(file for file in artifact.parent.iterdir() if file != artifact)
    check_side_files(side, request.destination, force=request.force, inputs=inputs)
    publish(artifact, encode_receipt(receipt), request.destination, side)
    return receipt


def remember(store: Store, request: Request, receipt: Receipt, artifact: Path, side: Sequence[Path]) -> None:
    """Keep a finished conversion, where all that it hangs on can be known before it is run again.

    Not kept are conversions of models with files beside them (a reader alone knows those), and those on whose way
    something failed, could not be run here or was ended early: that may go better the next time.
    """
    key = _key(request)
    if (
        not key
        or receipt.failed_attempts
        or receipt.not_run
        or any(remark.code == SEARCH_ENDED for remark in receipt.remarks)
        or receipt.source.sha256 != sha256_model(Path(request.source.path))
    ):
        return
    with store.scratch() as scratch:
        folder = scratch / "conversion"
        named = folder / "out" / request.destination.name  # a cached step may have another
        publish(artifact, encode_receipt(receipt), named, side)
        receipt_path(named).rename(folder / "receipt.json")
        (folder / "result.json").write_bytes(msgspec.json.encode(TaskResult(seconds=0.0, peak_memory_bytes=0)))
        store.keep(folder, key, replace=True)


def _inputs(request: Request) -> tuple[str, ...]:
    source = request.source
    return tuple(path for path in (source.path, source.weights, request.calibration, request.test) if path)


def _key(request: Request) -> str:
    """Hash everything a conversion hangs on.

    Empty where a part of that is code, is measured each time anew, or cannot be read: opening the model says why.
    """
    inputs = _inputs(request)
    if request.source.builder or request.options.allow_pickle or request.require_speedup:
        return ""
    try:
        if not all(Path(path).exists() for path in inputs):
            return ""  # data made by a function, or a folder with how to read it: what is in them is not known here
        contents = [sha256_model(Path(path)) for path in inputs]
    except OSError:
        return ""
    asked = msgspec.structs.replace(request, output=request.destination.name, force=False, use_cache=True)
    variables = {name: value for name, value in os.environ.items() if name.startswith("HUB_")}
    machine = (str(processor()), platform.python_version(), platform.platform())
    return key_of("conversion", VERSION, asked, contents, variables, machine, [*_installed()])


def _installed() -> Iterator[tuple[str, int, int]]:
    """What is installed and when it was, and every source file of hub and its plugins, as they are edited in place."""
    packages = {entry.module.partition(".")[0] for entry in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    for place in (Path(name) for name in dict.fromkeys(sys.path)):
        for info in sorted(place.glob("*.dist-info")) if place.is_dir() else ():
            packages |= {info.name.partition("-")[0]} if info.name.startswith("hub_") else set()
            yield str(info), info.stat().st_mtime_ns, 0
    for file in (file for package in sorted({"hub", *packages}) for file in _plugins.python_files(package)):
        status = file.stat()
        yield str(file), status.st_mtime_ns, status.st_size
