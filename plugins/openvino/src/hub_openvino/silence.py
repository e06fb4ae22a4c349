"""Keeps OpenVINO and NNCF from reporting home."""

from __future__ import annotations

import sys


def silence_telemetry() -> None:
    """Hide `openvino_telemetry` from what is imported next in this process.

    `import openvino`, its model converter and NNCF send events over the network through it, unless the user has
    opted out; without the package they send none. To be called in a worker before the first of these imports.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python blocks an import
