"""Names in a TFLite file's signature: LiteRT Torch takes only Python identifiers; this writes any others in after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark

if TYPE_CHECKING:
    from pathlib import Path


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
