"""Names in a TFLite file's signature: LiteRT Torch takes only Python identifiers; this writes any others in after."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def rename_signature(path: Path, renames: dict[str, dict[str, str]]) -> tuple[str, ...]:
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
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    for signature in model.signatureDefs or ():
        for side, maps in (("inputs", signature.inputs), ("outputs", signature.outputs)):
            for entry in maps or ():
                name = entry.name.decode()
                entry.name = renames[side].get(name, name)
    builder = flatbuffers.Builder(path.stat().st_size)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(builder.Output())
    listed = ", ".join(f"{old} -> {new}" for old, new in changed.items())
    return (f"wrote the source's names into the TFLite signature, which its converter cannot: {listed}",)
