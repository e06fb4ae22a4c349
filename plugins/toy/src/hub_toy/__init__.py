"""A complete plugin: two formats, four edges, one runtime. Copy this folder to start your own.

Every command that plans imports this module, so each hook imports what it offers when it is called.
"""

from pathlib import Path

from hub.spec import Edge, Format, Identification, Runtime, hookimpl


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offer the readers."""
    from hub_toy.formats import ToyBinFormat, ToyFormat

    return [ToyFormat(), ToyBinFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offer the edges."""
    from hub_toy.edges import EDGES

    return list(EDGES)


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offer the runtime."""
    from hub_toy.runtime import ToyRuntime

    return [ToyRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:  # noqa: ARG001 the header says it all
    """Recognise a file by its first bytes; never by its name, never by executing it."""
    from hub_toy.files import MAGIC, TEXT_START

    if header.startswith(MAGIC):
        return Identification(format="toybin")
    return Identification(format="toy") if header.lstrip().startswith(TEXT_START) else None
