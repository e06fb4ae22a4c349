"""The one coded error of the importer, and the short form that operator functions raise."""

from __future__ import annotations

from hub.spec import UnsupportedModel


class Refused(Exception):
    """An operator function met a form it does not implement; the importer adds the operator and re-raises."""


class UnsupportedOperator(UnsupportedModel):
    """An operator, or a form of it, that the importer does not translate.

    Args:
        op: The operator's name in the schema; `custom::Name` for a custom one.
        version: Its version in the file.
        place: Name of its first output.
        reason: What is not implemented, in words.
    """

    code = "unsupported-operator"

    def __init__(self, op: str, version: int, place: str, reason: str) -> None:
        super().__init__(f"{op} (version {version}) that makes {place!r}: {reason}")
        self.op = op
        self.version = version
        self.place = place
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.op, self.version, self.place, self.reason)


def refuse_if(condition: object, reason: str) -> None:
    """Raise `Refused` with the reason when the condition holds."""
    if condition:
        raise Refused(reason)
