"""Give a program the border that was asked for: fixed shapes, frozen inputs, another layout, names that are words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hub.spec import ConvertOptions, IoBinding, ShapeNeeded, TensorSpec, UnknownName
from hub_torchprogram.program import fixed_spec, module_of, torch_dtype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from hub_torchprogram.program import Program

_IMAGE_RANK = 4
# result axes = source axes transposed by these; and the way back
_LAYOUTS = {"nhwc": ((0, 2, 3, 1), (0, 3, 1, 2)), "nchw": ((0, 1, 2, 3), (0, 1, 2, 3)), "": ((), ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedProgram:
    """A program behind its new border.

    Attributes:
        module: Takes the inputs by keyword (by `words`), gives a dict of outputs (by `output_words`).
        inputs: Specs of the inputs as the module now takes them, without the frozen ones: static, but for the
            dimensions that were to stay open.
        words: The inputs' names as Python identifiers.
        outputs: Names of the outputs.
        output_words: The outputs' names as Python identifiers.
        bindings: What changed.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    words: tuple[str, ...]
    outputs: tuple[str, ...]
    output_words: tuple[str, ...]
    bindings: tuple[IoBinding, ...]


def words(names: Sequence[str]) -> tuple[str, ...]:
    """Names as unique Python identifiers; a name that is one stays as it is."""
    made: list[str] = []
    for name in names:
        word = re.sub(r"\W", "_", name)
        word = word if word.isidentifier() else f"n_{word}"
        while word in made:
            word += "_"
        made.append(word)
    return tuple(made)


def adapt(program: Program, options: ConvertOptions, *, keep_open: bool = False) -> AdaptedProgram:
    """Put a program behind the border that the options ask for.

    Args:
        program: The program.
        options: Shapes, constants, layout.
        keep_open: Leave symbolic dimensions open in inputs without a given shape.

    Raises:
        ShapeNeeded: An input has a symbolic dimension and no shape is given.
        UnknownName: A shape or a constant names no input.
    """
    check_names(program, options)
    specs = tuple(_fixed(spec, options, keep_open=keep_open) for spec in program.signature.inputs)
    kept = tuple(spec for spec in specs if spec.name not in options.constants)
    outputs = program.signature.outputs
    input_words, output_words = words([spec.name for spec in kept]), words([spec.name for spec in outputs])
    forward, back = _LAYOUTS[options.io_layout]
    moved = {
        spec.name
        for spec in (*kept, *outputs)
        if forward != tuple(range(4)) and len(spec.shape) == _IMAGE_RANK and forward
    }
    feeds = dict(zip([spec.name for spec in kept], input_words, strict=True))
    return AdaptedProgram(
        module=_border(program, specs, feeds, output_words, options.constants, (moved, forward, back)),
        inputs=tuple(
            TensorSpec(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape[axis] for axis in forward))
            if spec.name in moved
            else spec
            for spec in kept
        ),
        words=input_words,
        outputs=tuple(spec.name for spec in outputs),
        output_words=output_words,
        bindings=_bindings(specs, outputs, options, moved),
    )


def check_names(program: Program, options: ConvertOptions) -> None:
    """Refuse shapes and constants for inputs that do not exist."""
    names = [spec.name for spec in program.signature.inputs]
    unknown = sorted((options.shapes.keys() | options.constants.keys()) - set(names))
    if unknown:
        raise UnknownName(f"no input named {', '.join(unknown)}", hint=f"the inputs are: {', '.join(names)}")


def _fixed(spec: TensorSpec, options: ConvertOptions, *, keep_open: bool) -> TensorSpec:
    shape = options.shapes.get(spec.name)
    if shape is not None:
        return fixed_spec(spec.name, spec.dtype, shape)
    if spec.is_static or (keep_open and spec.name not in options.constants):
        return spec
    example = "x".join(str(dim.size or 1) for dim in spec.shape)
    hint = f"fix it: --shape {spec.name}={example}"
    raise ShapeNeeded(f"input {spec} has dimensions that are not fixed, and the target needs them fixed", hint=hint)


def _bindings(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: ConvertOptions, moved: set[str]
) -> tuple[IoBinding, ...]:
    frozen = tuple(
        IoBinding(direction="input", source=name, target="", reason="frozen on request", constant=value)
        for name, value in options.constants.items()
    )
    forward = _LAYOUTS[options.io_layout][0]
    reason = f"layout {options.io_layout} on request"
    sides: tuple[tuple[Literal["input", "output"], Sequence[TensorSpec]], ...] = (
        ("input", inputs),
        ("output", outputs),
    )
    return frozen + tuple(
        IoBinding(direction=direction, source=spec.name, target=spec.name, reason=reason, permutation=forward)
        for direction, specs in sides
        for spec in specs
        if spec.name in moved and spec.name not in options.constants
    )


def _border(
    program: Program,
    specs: Sequence[TensorSpec],
    feeds: dict[str, str],
    output_words: Sequence[str],
    constants: dict[str, int | float | bool],
    layout: tuple[set[str], tuple[int, ...], tuple[int, ...]],
) -> torch.nn.Module:
    import torch

    moved, forward, back = layout
    outputs = [spec.name for spec in program.signature.outputs]

    def take(spec: TensorSpec, given: dict[str, torch.Tensor]) -> torch.Tensor:
        if spec.name in constants:
            return torch.full(spec.fixed_shape, constants[spec.name], dtype=torch_dtype_of(spec.dtype))
        tensor = given[feeds[spec.name]]
        return tensor.permute(back) if spec.name in moved else tensor

    def call(**given: torch.Tensor) -> dict[str, torch.Tensor]:
        results = program.call(*(take(spec, given) for spec in specs))
        named = zip(outputs, output_words, results, strict=True)
        return {word: tensor.permute(forward) if name in moved else tensor for name, word, tensor in named}

    return module_of(call, program.call)
