"""What a conversion is asked for: inputs with fixed or open dimensions, some frozen to a constant, and a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from hub.spec import ConvertOptions, IoBinding, Remark, ShapeNeeded, Signature, TensorSpec, UnknownName

Shape = tuple[int, ...]
Tensor = TypeVar("Tensor")
"""A tensor of the framework that a model is called in."""
_IMAGE_RANK = 4
# result axes = source axes transposed by these
_TO_LAYOUT = {"NHWC": (0, 2, 3, 1), "NCHW": (0, 3, 1, 2)}
_EXAMPLE_BATCH = 3  # torch.export takes 0 and 1 for constants
_EXAMPLE_STEP = 32  # a multiple of what the usual networks halve their images by


@dataclass(frozen=True, slots=True)
class TensorTools(Generic[Tensor]):
    """What the border needs of a framework.

    Attributes:
        constant: (value, shape, dtype) -> tensor.
        transpose: (tensor, permutation) -> tensor.
    """

    constant: Callable[[float, Shape, str], Tensor]
    transpose: Callable[[Tensor, Shape], Tensor]


@dataclass(frozen=True, slots=True)
class StaticInputs:
    """Inputs that stay, inputs that become constants, and what the border looks like.

    Attributes:
        order: Every source input, in order.
        shapes: Source input -> shape to trace with, for every input; examples where an axis stays open.
        constants: Source input -> value, for inputs that leave the signature.
        outputs: Source output names, in order.
        open_axes: Source input -> axes that stay symbolic; empty for a conversion at fixed shapes.
        layout: `nhwc` or `nchw` where inputs and outputs of rank 4 change to it; empty where nothing does.
        moved_outputs: Outputs of rank 4, where the layout changes.
    """

    order: tuple[TensorSpec, ...]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, int | float | bool]
    outputs: tuple[str, ...]
    open_axes: Mapping[str, Shape]
    layout: str = ""
    moved_outputs: frozenset[str] = frozenset()

    @property
    def kept(self) -> tuple[TensorSpec, ...]:
        """Inputs that stay."""
        return tuple(spec for spec in self.order if spec.name not in self.constants)

    @property
    def forward(self) -> Shape:
        """Permutation of a rank-4 tensor into the layout that was asked for; empty for none."""
        return _TO_LAYOUT[self.layout.upper()] if self.layout else ()

    @property
    def _back(self) -> Shape:
        return tuple(self.forward.index(axis) for axis in range(len(self.forward)))

    def permutation(self, spec: TensorSpec) -> Shape:
        """How an input's axes move at the border; empty for not at all."""
        return self.forward if self.layout and len(spec.shape) == _IMAGE_RANK else ()

    def example(self, spec: TensorSpec) -> Shape:
        """Sizes to trace an input with, in the border's layout."""
        shape = self.shapes[spec.name]
        return tuple(shape[axis] for axis in self.permutation(spec) or range(len(shape)))

    def symbols(self, spec: TensorSpec) -> dict[int, str]:
        """Axis in the border's layout -> symbol, for the axes of an input that stay open."""
        axes = self.permutation(spec) or range(len(spec.shape))
        opened = self.open_axes.get(spec.name, ())
        return {place: str(spec.shape[axis]) for place, axis in enumerate(axes) if axis in opened}

    @property
    def is_open(self) -> bool:
        """Whether any axis stays symbolic."""
        return any(self.open_axes.values())

    @property
    def bindings(self) -> tuple[IoBinding, ...]:
        """The declared changes: frozen inputs, and layouts."""
        frozen = tuple(
            IoBinding(direction="input", source=name, target="", reason="frozen on request", constant=value)
            for name, value in self.constants.items()
        )
        moved = [spec.name for spec in self.kept if self.permutation(spec)]
        return (*frozen, *self._moves("input", moved), *self._moves("output", self.moved_outputs))

    def _moves(self, direction: Literal["input", "output"], names: Iterable[str]) -> tuple[IoBinding, ...]:
        reason = f"layout {self.layout} on request"
        return tuple(
            IoBinding(direction=direction, source=name, target=name, reason=reason, permutation=self.forward)
            for name in sorted(names)
        )

    @property
    def notes(self) -> tuple[Remark, ...]:
        """What was fixed, in words."""
        fixed = [spec for spec in self.kept if not spec.is_static and not self.open_axes.get(spec.name)]
        sizes = {str(spec): "x".join(map(str, self.shapes[spec.name])) for spec in fixed}
        return (
            *(Remark("note", "input-fixed", f"fixed {spec} to {size}") for spec, size in sizes.items()),
            *(
                Remark("note", "input-frozen", f"froze input {name} to {value}")
                for name, value in self.constants.items()
            ),
        )

    def run(
        self, call: Callable[[Sequence[Tensor]], list[Tensor]], kept: Sequence[Tensor], tools: TensorTools[Tensor]
    ) -> list[Tensor]:
        """Call a model from behind the border.

        Args:
            call: The model: all inputs in order -> all outputs in order.
            kept: Tensors of the kept inputs, in the border's layout.
            tools: Of the framework.

        Returns:
            Outputs in order, in the border's layout.
        """
        given = iter(kept)
        results = call([self._input(spec, given, tools) for spec in self.order])
        return [
            tools.transpose(result, self.forward) if name in self.moved_outputs else result
            for name, result in zip(self.outputs, results, strict=True)
        ]

    def _input(self, spec: TensorSpec, given: Iterator[Tensor], tools: TensorTools[Tensor]) -> Tensor:
        if spec.name in self.constants:
            return tools.constant(self.constants[spec.name], self.shapes[spec.name], spec.dtype.value)
        tensor = next(given)
        return tools.transpose(tensor, self._back) if self.permutation(spec) else tensor


def static_inputs(signature: Signature, options: ConvertOptions) -> StaticInputs:
    """Match the request with the model's inputs, every one at a fixed shape.

    Raises:
        UnknownName: A shape or constant is given for an input that does not exist.
        ShapeNeeded: An input keeps a dimension without a size.
    """
    _check_names(signature, options)
    # Frozen inputs have the shapes that another input fixes through their open dimensions (the batch).
    known = [(spec, options.shapes[spec.name]) for spec in signature.inputs if spec.name in options.shapes]
    sizes = {
        dim.symbol: size for spec, shape in known for dim, size in zip(spec.shape, shape, strict=False) if dim.symbol
    }
    frozen = [spec for spec in signature.inputs if spec.name in options.constants]
    found = {spec.name: tuple(dim.size or sizes.get(str(dim.symbol), 0) for dim in spec.shape) for spec in frozen}
    given = {**{name: shape for name, shape in found.items() if all(shape)}, **options.shapes}
    shapes = {spec.name: _shape(spec, given) for spec in signature.inputs}
    return _inputs(signature, options, shapes, {})


def open_inputs(signature: Signature, options: ConvertOptions) -> StaticInputs:
    """Match the request with the model's inputs; dimensions that nobody fixed stay symbolic.

    Raises:
        UnknownName: A shape or constant is given for an input that does not exist.
        ShapeNeeded: An input that becomes a constant has a dimension without a size.
    """
    _check_names(signature, options)
    loose = {
        spec.name: tuple(axis for axis, dim in enumerate(spec.shape) if dim.size is None)
        for spec in signature.inputs
        if spec.name not in options.shapes and spec.name not in options.constants and not spec.is_static
    }
    shapes = {
        spec.name: _example(spec) if spec.name in loose else _shape(spec, options.shapes) for spec in signature.inputs
    }
    return _inputs(signature, options, shapes, loose)


def _example(spec: TensorSpec) -> Shape:
    """Different sizes for different axes, none of them 0 or 1, which torch.export takes for constants."""
    sizes = (_EXAMPLE_BATCH, *(_EXAMPLE_STEP * (axis + 1) for axis in range(1, len(spec.shape))))
    return tuple(dim.size or size for dim, size in zip(spec.shape, sizes, strict=False))


def _check_names(signature: Signature, options: ConvertOptions) -> None:
    names = [spec.name for spec in signature.inputs]
    for name in (*options.shapes, *options.constants):
        if name not in names:
            raise UnknownName(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(names)}")


def _inputs(
    signature: Signature, options: ConvertOptions, shapes: Mapping[str, Shape], loose: Mapping[str, Shape]
) -> StaticInputs:
    layout = options.io_layout if layouts_of(signature) - {options.io_layout.upper()} else ""
    images = {spec.name for spec in signature.outputs if layout and len(spec.shape) == _IMAGE_RANK}
    return StaticInputs(
        order=signature.inputs,
        shapes=shapes,
        constants=options.constants,
        outputs=tuple(spec.name for spec in signature.outputs),
        open_axes=loose,
        layout=layout,
        moved_outputs=frozenset(images),
    )


def layouts_of(signature: Signature) -> set[str]:
    """Layouts of the inputs of rank 4: `NHWC`, `NCHW`, and the empty word where the model does not say."""
    return {spec.layout for spec in signature.inputs if len(spec.shape) == _IMAGE_RANK}


def _shape(spec: TensorSpec, shapes: Mapping[str, Shape]) -> Shape:
    given = shapes.get(spec.name)
    if given is None and spec.is_static:
        return spec.fixed_shape
    if (
        given is None
        or len(given) != len(spec.shape)
        or not all(dim.size in {None, size} for dim, size in zip(spec.shape, given, strict=True))
    ):
        example = "x".join(str(dim.size or 1) for dim in spec.shape)
        raise ShapeNeeded(f"{spec} needs a fixed shape, got {given}", hint=f"--shape {spec.name}={example}")
    return given
