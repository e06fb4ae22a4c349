"""What a conversion is asked for: every input with a fixed shape, some frozen to a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub.spec import ConvertOptions, IoBinding, ShapeNeeded, Signature, TensorSpec, UnknownName


@dataclass(frozen=True, slots=True)
class StaticInputs:
    """Inputs that stay, with fixed shapes, and inputs that become constants.

    Attributes:
        order: Every source input, in order.
        shapes: Source input -> fixed shape, for every input.
        constants: Source input -> value, for inputs that leave the signature.
        outputs: Source output names, in order.
    """

    order: tuple[TensorSpec, ...]
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, int | float | bool]
    outputs: tuple[str, ...]

    @property
    def kept(self) -> tuple[TensorSpec, ...]:
        """Inputs that stay."""
        return tuple(spec for spec in self.order if spec.name not in self.constants)

    @property
    def bindings(self) -> tuple[IoBinding, ...]:
        """The declared changes: frozen inputs."""
        return tuple(
            IoBinding(direction="input", source=name, target="", reason="frozen on request", constant=value)
            for name, value in self.constants.items()
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was fixed, in words."""
        opened = [spec for spec in self.kept if not spec.is_static]
        fixed = [f"fixed {spec} to {'x'.join(map(str, self.shapes[spec.name]))}" for spec in opened]
        return (*fixed, *(f"froze input {name} to {value}" for name, value in self.constants.items()))

    def complete(self, kept: Sequence[Any], constant: Any) -> list[Any]:
        """All inputs in order: `kept` tensors, and `constant(value, shape, dtype)` for the frozen ones."""
        given = iter(kept)
        return [
            constant(self.constants[spec.name], self.shapes[spec.name], spec.dtype.value)
            if spec.name in self.constants
            else next(given)
            for spec in self.order
        ]


def static_inputs(signature: Signature, options: ConvertOptions) -> StaticInputs:
    """Match the request with the model's inputs.

    Raises:
        UnknownName: A shape or constant is given for an input that does not exist.
        ShapeNeeded: An input keeps a dimension without a size.
    """
    names = [spec.name for spec in signature.inputs]
    for name in (*options.shapes, *options.constants):
        if name not in names:
            raise UnknownName(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(names)}")
    return StaticInputs(
        order=signature.inputs,
        shapes={spec.name: _shape(spec, options.shapes) for spec in signature.inputs},
        constants=options.constants,
        outputs=tuple(spec.name for spec in signature.outputs),
    )


def _shape(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    given = shapes.get(spec.name)
    if given is None and spec.is_static:
        return spec.fixed_shape
    if given is None or len(given) != len(spec.shape) or not _fits(spec, given):
        example = "x".join(str(dim.size or 1) for dim in spec.shape)
        raise ShapeNeeded(f"{spec} needs a fixed shape, got {given}", hint=f"--shape {spec.name}={example}")
    return given


def _fits(spec: TensorSpec, given: tuple[int, ...]) -> bool:
    return all(dim.size in {None, size} for dim, size in zip(spec.shape, given, strict=True))
