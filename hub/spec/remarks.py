"""Remarks: everything that is told to the user besides errors, as one record with a code to filter by."""

from typing import Annotated, Literal

import msgspec

RemarkKind = Literal["note", "warning", "finding", "blocker", "obstacle", "deviation", "left-out", "doubt"]
"""What a remark is about:

* `note`: something that was done without being asked for in so many words.
* `warning`: something about the result, or about what proves it, that its user should know.
* `finding`: something in the source that matters for a conversion.
* `blocker`: something in the source for which no conversion is possible.
* `obstacle`: what stands in the way of speed when the result is executed.
* `deviation`: where a runtime computes otherwise than the file says.
* `left-out`: why an edge is on no route.
* `doubt`: why an edge on a route may come to nothing.
"""


RemarkCode = Annotated[str, msgspec.Meta(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
"""A stable slug, one for each cause, such as `float64-inside`: CI jobs filter by it."""


class Remark(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sentence for the user: `Remark("note", "opset-raised", f"raised the opset from {before} to {after}")`.

    Attributes:
        kind: What it is about.
        code: Of the cause, for CI jobs to filter by.
        text: What was found or done, with the values.
        hint: What hub will do about it, or what to do.
    """

    kind: RemarkKind
    code: RemarkCode
    text: str
    hint: str = ""
