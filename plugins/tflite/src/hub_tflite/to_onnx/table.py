"""The table from a builtin operator to the function that writes it in ONNX.

The signature of such a function is its contract, which the importer checks before it calls:

* the first parameter, `node`, is the operator's `importer.Node`: where ONNX nodes are written;
* the other positional parameters are the operator's inputs, in order; one with a default may be absent (-1 in the
  file), `*name` takes any number (`*name: Value | None` with gaps);
* keyword-only parameters are fields of its options, by the schema's own names (`stride_w`); one without a default
  needs an options table in the file. A field that is not named must have the schema's default, else it is refused.
  Two kinds of fields are the importer's: a fused activation that the function does not name is written behind its
  first output, and those of `IGNORED`, which change no float result.

Newest versions are those of LiteRT 2.3's `register.cc`. A version adds element types or options to an operator and
changes no earlier meaning, so a row holds for every version from its oldest to its newest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Handler = Callable[..., Any]
FUSED = "fused_activation_function"
IGNORED = frozenset({"pot_scale_int16", "quantized_bias_type", "asymmetric_quantize_inputs"})
"""Options about the rounding of quantized kernels."""

_THEMES = (
    "control",
    "conv",
    "elementwise",
    "index",
    "linear",
    "pool",
    "quant",
    "recurrent",
    "reduce",
    "resize",
    "segment",
    "shape",
    "signal",
    "slice",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: an operator, the versions understood, and its function with its contract."""

    name: str
    oldest: int
    newest: int
    handler: Handler
    required_inputs: tuple[bool, ...]
    variadic: bool
    gaps: bool
    options: dict[str, bool]

    def mismatch(self, version: int, inputs: Sequence[bool], options: Mapping[str, Any] | None) -> str | None:
        """Say why an operator with these inputs (present or not) and options does not fit; None when it does."""
        if not self.oldest <= version <= self.newest:
            return f"version {version} is not implemented, only {self.oldest} to {self.newest}"
        if options is None and any(self.options.values()):
            return (
                f"it has no options, {', '.join(name for name, required in self.options.items() if required)} missing"
            )
        return self._unknown(options or {}) or self._input_mismatch(inputs)

    def _unknown(self, options: Mapping[str, Any]) -> str | None:
        unknown = sorted(options.keys() - self.options.keys() - IGNORED - {FUSED})
        return (
            f"option {', '.join(f'{name}={options[name]}' for name in unknown)} is not implemented" if unknown else None
        )

    def _input_mismatch(self, inputs: Sequence[bool]) -> str | None:
        known = len(self.required_inputs)
        if any(inputs[known:]) and not self.variadic:
            return f"{len(inputs)} inputs, {known} are implemented"
        absent = [i for i, required in enumerate(self.required_inputs) if required and not _present(inputs, i)]
        absent += [i for i in range(known, len(inputs)) if self.variadic and not self.gaps and not inputs[i]]
        return f"input {absent[0]} is absent" if absent else None


def _present(inputs: Sequence[bool], index: int) -> bool:
    return index < len(inputs) and inputs[index]


_table: dict[str, Row] = {}


def op(name: str, newest: int = 1, *, oldest: int = 1) -> Callable[[Handler], Handler]:
    """Register the decorated function for a builtin operator, up to the newest version it understands."""

    def register(handler: Handler) -> Handler:
        if name in _table:
            raise ValueError(f"{name} has two rows")
        _table[name] = _row(name, oldest, newest, handler)
        return handler

    return register


def _row(name: str, oldest: int, newest: int, handler: Handler) -> Row:
    parameters = list(inspect.signature(handler).parameters.values())[1:]
    inputs = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return Row(
        name=name,
        oldest=oldest,
        newest=newest,
        handler=handler,
        required_inputs=tuple(p.default is p.empty for p in inputs),
        variadic=any(p.kind is p.VAR_POSITIONAL for p in parameters),
        gaps=any(p.kind is p.VAR_POSITIONAL and "None" in str(p.annotation) for p in parameters),
        options={p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY},
    )


def table() -> dict[str, Row]:
    """Return the whole table, with every theme loaded. No framework is imported."""
    for theme in _THEMES:
        import_module(f"{__package__}.ops.{theme}")
    return _table


def unknown_operators(names: Iterable[str]) -> list[str]:
    """Return the operators among these that have no row, sorted."""
    return sorted(set(names) - table().keys())
