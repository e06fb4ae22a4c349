"""The contract is what it was: `hub.spec` beside `contract.txt`. Run as a program, this file writes that one."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hub import spec
from hub.spec import HubError, hooks

RECORDED = Path(__file__).with_name("contract.txt")
PLACES = re.compile(r"hub\.spec\.\w+\.|collections\.abc\.|pathlib\.| at 0x\w+")
"""Where a thing is defined is none of the contract."""
RULE = (
    "A plugin that was right must stay so: put it back, or let CONTRACT_VERSION go up and say in changelog.d what a"
    " plugin has to change. Then record it: python tests/contract/test_contract.py"
)


def contract() -> list[str]:
    """Every name of the contract, one line for each thing that a plugin can lean on."""
    names = [line for name in spec.__all__ for line in _lines(name, getattr(spec, name))]
    hooked = {name: item for name, item in vars(hooks).items() if name.startswith("hub_")}
    lines = [*names, *(f"hook {name}{inspect.signature(item)}" for name, item in hooked.items())]
    return sorted(PLACES.sub("", line) for line in lines)


def _lines(name: str, item: object) -> Iterator[str]:
    if not isinstance(item, type):
        called = inspect.isfunction(inspect.unwrap(item))  # type: ignore[arg-type]
        yield f"{name}{inspect.signature(item)}" if called else f"{name} = {item!r}"  # type: ignore[arg-type]
        return
    yield f"class {name}({', '.join(base.__name__ for base in item.__bases__)})"
    if issubclass(item, enum.Enum):
        yield from (f"{name}.{member.name} = {member.value!r}" for member in item)
    elif issubclass(item, HubError):
        yield f"{name}.code = {item.code!r}, exit status {item.exit_status}"
    elif issubclass(item, msgspec.Struct):
        for field in msgspec.structs.fields(item):
            yield f"{name}.{field.name}: {_words(item, field.name)}{_default(field)}"
    else:
        for field in vars(item).get("__annotations__", {}):
            value = f" = {vars(item)[field]!r}" if field in vars(item) else ""
            yield f"{name}.{field}: {_words(item, field)}{value}"
    for method, value in vars(item).items():
        if inspect.isfunction(value) and not method.startswith("_"):
            abstract = "abstract " if getattr(value, "__isabstractmethod__", False) else ""
            yield f"{abstract}{name}.{method}{inspect.signature(value)}"
        elif isinstance(value, property):
            yield f"{name}.{method} -> property"


def _words(kind: type, field: str) -> str:
    hint = vars(kind)["__annotations__"][field]
    return hint if isinstance(hint, str) else inspect.formatannotation(hint)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    made = field.default_factory
    return f" = {made() if isinstance(made, Callable) else field.default!r}"  # type: ignore[arg-type]


def test_the_contract_is_what_it_was() -> None:
    recorded, found = set(RECORDED.read_text().splitlines()), set(contract())
    lost = sorted(recorded - found)
    assert not lost, f"the contract has lost {lost}. {RULE}"
    required = sorted(
        line
        for line in found - recorded
        if line.startswith("abstract ") or (line.partition(".")[0] in _classes(recorded) and _is_required(line))
    )
    assert not required, f"what is added has no default: {required}. {RULE}"
    added = sorted(found - recorded)
    assert not added, f"the contract has {added} besides: record it with python tests/contract/test_contract.py"


def _classes(lines: set[str]) -> set[str]:
    return {line.removeprefix("class ").partition("(")[0] for line in lines if line.startswith("class ")}


def _is_required(line: str) -> bool:
    return ":" in line and " = " not in line and "(" not in line.partition(":")[0]


if __name__ == "__main__":
    RECORDED.write_text("\n".join(contract()) + "\n")
