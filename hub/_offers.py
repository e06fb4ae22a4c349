"""What plugins register, checked when they load: a wrong object is told with its plugin, not found in a conversion."""

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from hub._requirements import alternatives
from hub._steps import narrows
from hub.spec import ANY, KEEP, Edge, Numerics

_FILLED = {"name", "id", "accepts", "suffixes", "formats", "variants", "numerics"}


def faults_of(item: object, base: type) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with an object by the contract, each with what to write.

    Args:
        item: What a plugin offers.
        base: What the contract calls it: `Format`, `Runtime` or `Edge`.
    """
    if not isinstance(item, base):
        yield _stranger(item, base)
        return
    kind = base.__name__
    where = f"the {kind.lower()} {getattr(item, 'id', '') or getattr(item, 'name', '') or type(item).__name__!r}"
    needed = [name for name, value in inspect.signature(type(item)).parameters.items() if value.default is value.empty]
    if not isinstance(item, Edge) and (needed or "<locals>" in type(item).__qualname__):
        cause = f"needs {', '.join(needed)}" if needed else "is defined inside a function"
        hint = "a module's own class, with an __init__ that takes nothing"
        yield f"{where}: a worker cannot make one, {type(item).__name__} {cause}", hint
    sound = True
    for name, annotation in _fields(base).items():
        if not hasattr(item, name):
            sound = False
            yield f"{where} has no `{name}`", _explained(base, name, annotation)
            continue
        value = getattr(item, name)
        wrong = _mistyped(value, annotation, name) or (f"{name} is empty" if name in _FILLED and not value else "")
        wrong = wrong or (_unparsable(value) if name == "requires" else "")
        wrong = wrong or (_unsettable(value) if name == "environment" else "")
        if wrong:
            sound = False
            yield f"{where}: {wrong}", _explained(base, name, annotation)
    if isinstance(item, Edge) and sound and (secret := _lossy_in_secret(item)):
        yield f"{where}: {secret}", "write `lossy=True`, so that it is counted among what changes the numbers"


def _stranger(item: object, base: type) -> tuple[str, str]:
    """What to say of an object that is none of its kind."""
    kind = base.__name__
    if isinstance(item, type):
        return f"{item.__name__} is offered as a class", f"offer an instance of it: {item.__name__}()"
    if base is Edge:
        return f"{item!r} is offered as an edge and is a {type(item).__name__}", "offer a hub.spec.Edge"
    hint = f"class {type(item).__name__}({kind}): what the contract adds later then has a default for it"
    name = getattr(item, "name", "") or type(item).__name__
    return f"the {kind.lower()} {name!r} is not derived from hub.spec.{kind}", hint


def _explained(base: type, name: str, annotation: object) -> str:
    """What to write for a field: its type, and the words of its class's docstring."""
    found = re.search(rf"^    {name}: (.+(?:\n {{8}}.+)*)", inspect.getdoc(base) or "", re.MULTILINE)
    kind = re.sub(r"\w+\.(?=\w)", "", inspect.formatannotation(annotation))
    return f"write `{name}: {kind}`" + (f": {' '.join(found[1].split())}" if found else "")


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


def _unsettable(environment: Mapping[str, str]) -> str:
    """The first variable that no process can be given; empty where all can be set."""
    for name, value in environment.items():
        text = f"{name}{value}"
        if not name or "=" in name or "\0" in text or text != text.encode(errors="replace").decode():
            return f"environment has {name!r}: {value!r}, which no process can be given"
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
