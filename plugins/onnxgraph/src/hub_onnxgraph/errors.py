"""The one coded error of the importer, and the short form that operator functions raise."""

from __future__ import annotations

from hub.spec import UnsupportedModel


class Refused(Exception):
    """An operator function met a form it does not implement; the interpreter adds the node and re-raises."""


class UnsupportedOperator(UnsupportedModel):
    """An operator, or a form of it, that the importer does not translate.

    Args:
        op: Operator type, prefixed by its domain when that is not the ONNX one.
        version: The operator's since-version under the model's opset; 0 when the standard does not know it.
        node: The node's name, or the name of its first output.
        reason: What is not implemented, in words.
    """

    code = "unsupported-operator"

    def __init__(self, op: str, version: int, node: str, reason: str) -> None:
        super().__init__(f"{op} (version {version}) at node {node!r}: {reason}")
        self.op = op
        self.version = version
        self.node = node
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.op, self.version, self.node, self.reason)


def refuse_if(condition: object, reason: str) -> None:
    """Raise `Refused` with the reason when the condition holds."""
    if condition:
        raise Refused(reason)
