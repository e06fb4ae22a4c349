"""Float16 weights: what cannot be stored in them is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark

if TYPE_CHECKING:
    import openvino

FP16_MAX = 65504.0
"""The largest finite float16 (IEEE 754 binary16)."""


def clipped(model: openvino.Model) -> tuple[Remark, ...]:
    """Notes on stored values that float16 does not reach: OpenVINO stores the nearest it has."""
    import numpy as np

    names = [
        node.friendly_name
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
        and node.get_element_type().get_type_name() == "f32"
        and node.data.size
        and bool(np.nanmax(np.abs(node.data)) > FP16_MAX)
    ]
    if not names:
        return ()
    text = f"{len(names)} constants hold values beyond float16's {FP16_MAX:g}: {', '.join(sorted(names)[:5])}"
    return (Remark("note", "beyond-float16", text),)
