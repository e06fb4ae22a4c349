"""TorchScript: what a scripted module takes, whether it hides state, and how to call it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub.spec import DType, UnsupportedModel
from hub_torchprogram import module_of, torch_dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from hub_pytorch.reference import ModelReference

NUMBERS = {"int": DType.INT64, "float": DType.FLOAT32, "bool": DType.BOOL}


@dataclass(frozen=True, slots=True)
class ScriptInputs:
    """Names of a script's inputs in order.

    Attributes:
        required: Those without a default value in the file.
        optional: Those with one.
        numbers: Those that are a Python number instead of a tensor, with its type.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    numbers: dict[str, DType]

    def wanted(self, reference: ModelReference) -> list[str]:
        """The inputs that are open: all required ones, and the optional ones that the user gave a shape."""
        return [*self.required, *(name for name in self.optional if name in reference.shapes)]


def script_inputs(script: torch.jit.ScriptModule) -> ScriptInputs:
    """Read the inputs from a scripted module's schema."""
    forward: Any = script.forward  # a ScriptMethod, which torch's types do not say
    arguments = forward.schema.arguments[1:]
    return ScriptInputs(
        required=tuple(item.name for item in arguments if not item.has_default_value()),
        optional=tuple(item.name for item in arguments if item.has_default_value()),
        numbers={item.name: NUMBERS[str(item.type)] for item in arguments if str(item.type) in NUMBERS},
    )


def hidden_state(script: torch.jit.ScriptModule) -> tuple[str, ...]:
    """Attributes that a script assigns while it runs, so that its answer depends on earlier calls."""
    nodes = nodes_of(script.inlined_graph)
    return tuple(sorted({node.s("name") for node in nodes if node.kind() == "prim::SetAttr"}))


def nodes_of(block: torch.Graph | torch.Block) -> Iterator[torch.Node]:
    """The nodes of a graph, those inside its control flow behind the node that holds them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)


def stateless_submodules(script: torch.jit.ScriptModule) -> tuple[str, ...]:
    """Direct submodules that hide no state, as candidates for `--submodule`."""
    return tuple(name for name, child in script.named_children() if _is_candidate(child))


def _is_candidate(child: Any) -> bool:
    has_forward = "forward" in child._c._method_names()  # noqa: SLF001 - no public way to list a script's methods
    return has_forward and not hidden_state(child)


def state_message(script: torch.jit.ScriptModule) -> tuple[str, str]:
    """Why a script with hidden state is refused, and what to do instead."""
    names = ", ".join(hidden_state(script))
    candidates = stateless_submodules(script)
    flag = f"convert the part that takes its state as an input: --submodule {candidates[0]}" if candidates else ""
    others = f" (or {', '.join(candidates[1:])})" if candidates[1:] else ""
    return (
        f"the TorchScript model keeps hidden state between calls ({names}), which no target has a place for",
        flag + others or "use an ONNX file of the model, or export it with its state as an input and an output",
    )


def frozen_values(
    reference: ModelReference, numbers: dict[str, DType]
) -> dict[str, Callable[[], complex | torch.Tensor]]:
    """The reference's constants as what the model takes: Python numbers, or tensors of the input's shape and dtype."""
    return {name: _frozen_value(name, reference, numbers) for name in reference.constants}


def _frozen_value(
    name: str, reference: ModelReference, numbers: dict[str, DType]
) -> Callable[[], complex | torch.Tensor]:
    value = reference.constants[name]
    if name in numbers:
        kinds = {DType.INT64: int, DType.FLOAT32: float, DType.BOOL: bool}
        return lambda: kinds[numbers[name]](value)
    return lambda: _full(reference.shapes.get(name, ()), value, reference.dtypes.get(name, DType.FLOAT32))


def _full(shape: tuple[int, ...], value: float, dtype: DType) -> torch.Tensor:
    import torch

    return torch.full(shape, value, dtype=torch_dtype_of(dtype))


def script_call(script: torch.jit.ScriptModule, reference: ModelReference) -> torch.nn.Module:
    """A module that runs a script by keyword, with the reference's constants frozen.

    Raises:
        UnsupportedModel: The script keeps hidden state, or an input that is a number is not frozen.
    """
    if hidden_state(script):
        message, hint = state_message(script)
        raise UnsupportedModel(message, hint=hint)
    inputs = script_inputs(script)
    loose = [name for name in inputs.required if name in inputs.numbers and name not in reference.constants]
    if loose:
        hint = " ".join(f"--constant {name}=VALUE" for name in loose)
        raise UnsupportedModel(f"inputs that are numbers, not tensors: {', '.join(loose)}", hint=f"freeze them: {hint}")
    for parameter in script.parameters():
        parameter.requires_grad = False
    frozen = frozen_values(reference, inputs.numbers)

    def call(**feeds: object) -> object:
        return script(**feeds, **{name: value() for name, value in frozen.items()})

    return module_of(call)
