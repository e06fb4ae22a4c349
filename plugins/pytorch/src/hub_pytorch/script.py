"""TorchScript: what a scripted module takes, whether it hides state, and how to call it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hub.spec import UnsupportedModel


@dataclass(frozen=True, slots=True)
class ScriptInputs:
    """Names of a script's tensor and number inputs, in order; `optional` ones have a default value in the file."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    numbers: tuple[str, ...]


def script_inputs(script: Any) -> ScriptInputs:
    """Read the inputs from a scripted module's schema."""
    arguments = script.forward.schema.arguments[1:]
    return ScriptInputs(
        required=tuple(item.name for item in arguments if not item.has_default_value()),
        optional=tuple(item.name for item in arguments if item.has_default_value()),
        numbers=tuple(item.name for item in arguments if str(item.type) in {"int", "float", "bool"}),
    )


def hidden_state(script: Any) -> tuple[str, ...]:
    """Attributes that a script assigns while it runs, so that its answer depends on earlier calls."""
    graph = script.inlined_graph
    return tuple(sorted({node.s("name") for node in graph.findAllNodes("prim::SetAttr")}))


def stateless_submodules(script: Any) -> tuple[str, ...]:
    """Direct submodules that hide no state and take a tensor, as candidates for `--submodule`."""
    return tuple(name for name, child in script.named_children() if _is_candidate(child))


def _is_candidate(child: Any) -> bool:
    has_forward = "forward" in child._c._method_names()  # noqa: SLF001 - no public way to list a script's methods
    return has_forward and not hidden_state(child)


def state_message(script: Any) -> tuple[str, str]:
    """Why a script with hidden state is refused, and what to do instead."""
    names = ", ".join(hidden_state(script))
    candidates = stateless_submodules(script)
    flag = f"convert the part that takes its state as an input: --submodule {candidates[0]}" if candidates else ""
    others = f" (or {', '.join(candidates[1:])})" if candidates[1:] else ""
    return (
        f"the TorchScript model keeps hidden state between calls ({names}), which the target has no place for",
        flag + others or "use an ONNX file of the model, or export it with its state as an input and an output",
    )


def script_call(script: Any, constants: dict[str, int | float | bool]) -> tuple[Any, ScriptInputs]:
    """A module that runs a script with some inputs frozen.

    Returns:
        The module, which takes keywords, and the script's inputs.

    Raises:
        UnsupportedModel: The script keeps hidden state, or an input that is a number is not frozen.
    """
    import torch

    if hidden_state(script):
        message, hint = state_message(script)
        raise UnsupportedModel(message, hint=hint)
    names = script_inputs(script)
    loose = [name for name in names.numbers if name in names.required and name not in constants]
    if loose:
        hint = " ".join(f"--constant {name}=VALUE" for name in loose)
        raise UnsupportedModel(f"inputs that are numbers, not tensors: {', '.join(loose)}", hint=f"freeze them: {hint}")
    for parameter in script.parameters():
        parameter.requires_grad_(requires_grad=False)

    class ScriptCall(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Not a registered submodule: torch.export refuses ScriptModules, but traces through a call of one.
            object.__setattr__(self, "script", script)
            self.training = False

        def forward(self, **feeds: Any) -> Any:
            return self.script(**feeds, **constants)

    return ScriptCall(), names
