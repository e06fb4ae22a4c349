"""What plugins register, checked when they load: a wrong object is told with its plugin, not found in a conversion."""

import functools
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from hub.spec import Backend, Edge, Format, ManyForms, PluginBroken, Runtime

_FILLED = {"name", "id", "suffixes", "formats", "variants", "targets"}


def check_format(reader: object) -> None:
    """Hold a format's reader against the contract.

    Raises:
        PluginBroken: Says which attribute is wrong, and what it takes.
    """
    _check_protocol(reader, Format, *([ManyForms] if isinstance(reader, ManyForms) else []))


def check_runtime_object(runtime: object) -> None:
    """Hold a runtime against the contract; raises as `check_format`."""
    _check_protocol(runtime, Runtime, *([Backend] if isinstance(runtime, Backend) else []))


def check_edge(edge: object) -> None:
    """Hold an edge against the contract; raises as `check_format`."""
    if not isinstance(edge, Edge):
        raise PluginBroken(
            f"{edge!r} is offered as an edge and is a {type(edge).__name__}", hint="offer a hub.spec.Edge"
        )
    wrong = _struct_mistyped(edge, "") or ("id is empty" if not edge.id else "")
    if wrong:
        raise PluginBroken(f"the edge {edge.id!r}: {wrong}", hint="the fields are explained at hub.spec.Edge")


def _check_protocol(item: object, *protocols: type) -> None:
    kind = protocols[0].__name__
    for name, hint in (pair for protocol in protocols for pair in _members(protocol).items()):
        where = f"the {kind.lower()} {getattr(item, 'name', '') or type(item).__name__!r}"
        if not hasattr(item, name):
            raise PluginBroken(f"{where} has no `{name}`", hint=f"it is explained at hub.spec.{kind}.{name}")
        value = getattr(item, name)
        wrong = _mistyped(value, hint, name)
        if not wrong and name in _FILLED and not value:
            wrong = f"{name} is empty"
        if wrong:
            raise PluginBroken(f"{where}: {wrong}", hint=f"it is explained at hub.spec.{kind}.{name}")


@functools.cache
def _members(protocol: type) -> dict[str, object]:
    """Public attributes of a protocol -> type, as its properties say; `Callable` for a method."""
    public = {name: value for name, value in vars(protocol).items() if not name.startswith("_")}
    return {
        name: get_type_hints(value.fget)["return"] if isinstance(value, property) else Callable
        for name, value in public.items()
        if isinstance(value, property | types.FunctionType)
    }


@functools.cache
def _fields(kind: type) -> dict[str, object]:
    return {name: hint for name, hint in get_type_hints(kind).items() if not name.startswith("_")}


def _struct_mistyped(value: msgspec.Struct, where: str) -> str:
    dotted = f"{where}." if where else ""
    wrong = (_mistyped(getattr(value, name), hint, f"{dotted}{name}") for name, hint in _fields(type(value)).items())
    return next(filter(None, wrong), "")


def _mistyped(value: object, hint: object, where: str) -> str:
    """What is wrong with a value by its annotation; empty where nothing is."""
    origin, arguments = get_origin(hint), get_args(hint)
    wrong = ""
    if hint is Callable or origin is _CALLABLE:
        wrong = "" if callable(value) else f"{where} is {value!r}, not a function"
    elif origin in {Union, types.UnionType}:
        each = [_mistyped(value, kind, where) for kind in arguments]
        wrong = each[0] if all(each) else ""
    elif origin is Literal:
        wrong = "" if value in arguments else f"{where} is {value!r}, not one of {', '.join(map(repr, arguments))}"
    elif origin is tuple:
        wrong = _sequence_mistyped(value, arguments, where)
    elif origin in {dict, Mapping}:
        wrong = _mapping_mistyped(value, arguments, where)
    elif hint is not Any:
        wrong = _plainly_mistyped(value, hint, where)
    return wrong


_CALLABLE = get_origin(Callable[[], None])


def _mapping_mistyped(value: object, arguments: tuple[object, ...], where: str) -> str:
    if not isinstance(value, Mapping):
        return f"{where} is {value!r}, not a mapping"
    sides = zip((list(value.keys()), list(value.values())), arguments, strict=True)
    return next(filter(None, (_sequence_mistyped(items, (kind, ...), where) for items, kind in sides)), "")


def _sequence_mistyped(value: object, arguments: tuple[object, ...], where: str) -> str:
    if not isinstance(value, tuple | list):
        return f"{where} is {value!r}, not a tuple"
    kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
    if len(kinds) != len(value):
        return f"{where} has {len(value)} items, not {len(kinds)}"
    wrong = (_mistyped(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    return next(filter(None, wrong), "")


def _plainly_mistyped(value: object, hint: object, where: str) -> str:
    if not isinstance(hint, type):  # an annotation that nothing can be held against
        return ""
    wider = (int, float) if hint is float else hint
    if not isinstance(value, wider) or (isinstance(value, bool) and hint is not bool):
        of = f" ({', '.join(item.name for item in hint)})" if issubclass(hint, Enum) else ""
        return f"{where} is {value!r}, not a {hint.__name__}{of}"
    return _struct_mistyped(value, where) if isinstance(value, msgspec.Struct) else ""
