"""How OpenVINO fails, and what of it is said."""

from __future__ import annotations

FAILURES = (RuntimeError, ValueError, TypeError)
"""With what OpenVINO refuses; its own exceptions are RuntimeErrors, its binding's are the others."""


def reason_of(error: BaseException) -> str:
    """OpenVINO's message without its stack of source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from src/", "Check '", "While validating"))]
    return " ".join(told or lines)[:600] or type(error).__name__
