"""Recognises OpenVINO IR by its first tag. Executes nothing, expands nothing."""

from __future__ import annotations

from pathlib import Path

from hub.spec import Identification
from hub_openvino.ir import ROOT, check_version, first_tag

FORMAT = "openvino"


def identify(path: Path, header: bytes) -> Identification | None:
    """Recognises `<net … version="11">`; other XML (also the legacy `<net>` without a version) is not ours.

    Raises:
        ModelUnreadable: It is an IR that OpenVINO no longer reads, or one with a document type.
    """
    found = first_tag(header) if header else None
    if found is None or found[0] != ROOT or "version" not in found[1]:
        return None
    version = found[1]["version"]
    check_version(path, version)
    return Identification(format=FORMAT, detail=f"{path.name}: OpenVINO IR {version}")
