"""A complete plugin: two formats, four edges, one runtime. Copy this folder to start your own."""

from pathlib import Path

from hub.spec import Converter, Format, Identification, Runtime, hookimpl
from hub_toy.converter import ToyConverter
from hub_toy.files import MAGIC, TEXT_START
from hub_toy.formats import ToyBinFormat, ToyFormat
from hub_toy.runtime import ToyRuntime


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offer the readers."""
    return [ToyFormat(), ToyBinFormat()]


@hookimpl
def hub_register_converters() -> list[Converter]:
    """Offer the edges."""
    return [ToyConverter()]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offer the runtime."""
    return [ToyRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:  # noqa: ARG001 the header says it all
    """Recognise a file by its first bytes; never by its name, never by executing it."""
    if header.startswith(MAGIC):
        return Identification(format="toybin")
    return Identification(format="toy") if header.lstrip().startswith(TEXT_START) else None
