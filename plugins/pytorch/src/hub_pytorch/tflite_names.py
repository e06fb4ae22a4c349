"""Names in a TFLite file that LiteRT Torch cannot give: signatures with any names, and layers of exported programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark

if TYPE_CHECKING:
    from pathlib import Path

_WRAPPER = "module_of.<locals>.Wrapped"
"""In the names that LiteRT Torch makes of classes where an exported program has flattened the model's own modules."""

_LARGE_BYTES = 2**29


def name_layers(path: Path) -> None:
    """Name layers by operator and place, in place, where their names hold nothing but the class that hub exported.

    Such a name is that class once for each node that was fused (`...Wrapped_body;;...Wrapped_body;70`).

    Args:
        path: The file; one that is too large to be packed again in little memory keeps its names.
    """
    from hub_tflitefile.schema import numbers, operator_name, parse, read_bytes, text, to_bytes

    if path.stat().st_size > _LARGE_BYTES:
        return
    model = parse(read_bytes(path), path)
    for graph in model.subgraphs:
        taken = {text(tensor.name) for tensor in graph.tensors}
        for place, operator in enumerate(graph.operators):
            layer = f"{operator_name(model, operator).lower()}_{place}"
            read = [(f"{layer}:{slot}", index) for slot, index in enumerate(numbers(operator.inputs)) if index >= 0]
            for name, index in [*read, *((layer, index) for index in numbers(operator.outputs))]:
                tensor = graph.tensors[index]
                if _WRAPPER in text(tensor.name):
                    own = name if name not in taken else f"{name}_{index}"
                    taken.add(own)
                    tensor.name = own.encode()
    path.write_bytes(to_bytes(model))


def rename_signature(path: Path, renames: dict[str, dict[str, str]]) -> tuple[Remark, ...]:
    """Rename inputs and outputs in every signature of a TFLite file, in place.

    Args:
        path: The file.
        renames: `inputs` and `outputs`: name in the file -> name wanted. Names that stay are left out or equal.

    Returns:
        A note for what was renamed; nothing when nothing was, and then the file is not touched.
    """
    changed = {old: new for names in renames.values() for old, new in names.items() if old != new}
    if not changed:
        return ()
    from hub_tflitefile.interface import rename
    from hub_tflitefile.schema import parse, read_bytes, to_bytes

    model = parse(read_bytes(path), path)
    for signature in model.signatureDefs or ():
        rename(signature, renames["inputs"], renames["outputs"])
    path.write_bytes(to_bytes(model))
    listed = ", ".join(f"{old} -> {new}" for old, new in changed.items())
    text = f"wrote the source's names into the TFLite signature, which its converter cannot: {listed}"
    return (Remark("note", "renamed", text),)
