"""The hooks: few, and only registering. Entry-point group `hub.v1`.

A plugin is a module with functions of these names, marked with `hookimpl`:

    from hub.spec import hookimpl

    @hookimpl
    def hub_register_edges() -> list[Edge]:
        return [MY_EDGE]

The module is imported by every command that deals with models, so it imports no framework. A worker imports it too, and
asks it for the edge that it is to run.

Commands for the command line are entry points of their own, in the group `hub.commands.v1`: the command's name, and the
click command, such as `greet = "my_plugin.commands:greet"`. `hub --help` lists them and imports no plugin.
"""

from pathlib import Path
from typing import Any

import pluggy

from hub.spec.artifacts import Identification
from hub.spec.edges import Edge, Format
from hub.spec.reports import StepRecord
from hub.spec.runtime import Runtime

PROJECT = "hub"
CONTRACT_VERSION = 1
"""Version of this contract. It goes up when a plugin that was right stops being so; what is only added does not count,
and is asked for as a least version of hub-convert."""
ENTRY_POINT_GROUP = f"hub.v{CONTRACT_VERSION}"
"""Group of the entry points by which plugins are found: it says for which contract a plugin is written."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's function as a hook."""


@hookspec
def hub_register_formats() -> list[Format]:  # type: ignore[empty-body]
    """Offer readers of formats."""


@hookspec
def hub_register_edges() -> list[Edge]:  # type: ignore[empty-body]
    """Offer edges."""


@hookspec
def hub_register_runtimes() -> list[Runtime]:  # type: ignore[empty-body]
    """Offer runtimes."""


@hookspec
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognise a file or folder by its bytes (`header`: the first 64 KiB, empty for a folder). Never execute it."""


@hookspec
def hub_save_live_model(model: Any, folder: Path, example_inputs: Any) -> Path | None:
    """Save a live model object of this plugin's framework into `folder`; None when it is not one of yours."""


@hookspec
def hub_load_weights(model: Any, weights: Path) -> bool | None:
    """Load a file of weights, all of them, into a live model of this plugin's framework; None when it is not yours."""


@hookspec
def hub_step_finished(record: StepRecord) -> None:
    """Be told that a step finished."""
