"""What plugins register, checked when they load: a wrong object is told with its plugin, not found in a conversion."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from hub._requirements import alternatives
from hub._steps import narrows
from hub.spec import ANY, KEEP, Edge, Format, Numerics, PluginBroken, Runtime

_FILLED = {"name", "id", "suffixes", "formats", "variants", "numerics"}


def check_format(reader: object) -> None:
    """Hold a format's reader against the contract.

    Raises:
        PluginBroken: Says which attribute is wrong, and what it takes.
    """
    _check_derived(reader, Format)


def check_runtime_object(runtime: object) -> None:
    """Hold a runtime against the contract; raises as `check_format`."""
    _check_derived(runtime, Runtime)


def check_edge(edge: object) -> None:
    """Hold an edge against the contract; raises as `check_format`."""
    if not isinstance(edge, Edge):
        raise PluginBroken(
            f"{edge!r} is offered as an edge and is a {type(edge).__name__}", hint="offer a hub.spec.Edge"
        )
    wrong = _struct_mistyped(edge, "") or ("" if edge.id else "id is empty") or _unparsable(edge.requires)
    wrong = wrong or _lossy_in_secret(edge)
    if wrong:
        raise PluginBroken(f"the edge {edge.id!r}: {wrong}", hint="the fields are explained at hub.spec.Edge")


def _check_derived(item: object, base: type) -> None:
    """Hold an object against the base class that the contract gives its kind, attribute by attribute."""
    kind = base.__name__
    if isinstance(item, type):
        raise PluginBroken(f"{item.__name__} is offered as a class", hint=f"offer an instance of it: {item.__name__}()")
    where = f"the {kind.lower()} {getattr(item, 'name', '') or type(item).__name__!r}"
    if not isinstance(item, base):
        hint = f"class {type(item).__name__}({kind}): what the contract adds later then has a default for it"
        raise PluginBroken(f"{where} is not derived from hub.spec.{kind}", hint=hint)
    needed = [name for name, value in inspect.signature(type(item)).parameters.items() if value.default is value.empty]
    if needed or "<locals>" in type(item).__qualname__:
        cause = f"needs {', '.join(needed)}" if needed else "is defined inside a function"
        hint = "a module's own class, with an __init__ that takes nothing"
        raise PluginBroken(f"{where}: a worker cannot make one, {type(item).__name__} {cause}", hint=hint)
    for name, hint in get_type_hints(base).items():
        if not hasattr(item, name):
            raise PluginBroken(f"{where} has no `{name}`", hint=f"it is explained at hub.spec.{kind}")
        value = getattr(item, name)
        wrong = _mistyped(value, hint, name) or (f"{name} is empty" if name in _FILLED and not value else "")
        wrong = wrong or (_unparsable(value) if name == "requires" else "")
        if wrong:
            raise PluginBroken(f"{where}: {wrong}", hint=f"it is explained at hub.spec.{kind}")


def _lossy_in_secret(edge: Edge) -> str:
    """What an edge that calls itself exact does to a precision that it accepts; empty where it keeps them."""
    taken = {word for end in edge.accepts for word in (Numerics if end.numerics == ANY else end.numerics)}
    gives = edge.gives.numerics
    lost = sorted(word.value for word in taken if gives != KEEP and narrows(word, gives))
    return f"it makes {gives} of {', '.join(lost)} and is not lossy" if lost and not edge.lossy else ""


def _unparsable(requires: tuple[str, ...]) -> str:
    """The first requirement line that is none; empty where all are."""
    for line in requires:
        try:
            alternatives(line)
        except ValueError as error:
            return f"requires has {line!r}, which is no requirement: {str(error).splitlines()[0]}"
    return ""


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
