"""Open sizes: what Shape gives where a size is None, and what graphs do with it until it reaches a Reshape.

Keras has no operator that tells a size as a tensor, so a size is a name. Arithmetic on whole numbers and names goes on
in numpy, on arrays of objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hub_onnxgraph import Refused


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that is known only when the model runs.

    Attributes:
        factors: Names of open sizes, sorted, and what they are multiplied by: the size is their product.
        scale: A whole number.
    """

    factors: tuple[str, ...]
    scale: int = 1

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Dim):
            return Dim(tuple(sorted((*self.factors, *other.factors))), self.scale * other.scale)
        return 0 if int(other) == 0 else Dim(self.factors, self.scale * int(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, Dim) and set(other.factors) <= set(self.factors) and self.scale % other.scale == 0:
            rest = list(self.factors)
            for name in other.factors:
                rest.remove(name)
            return Dim(tuple(rest), self.scale // other.scale) if rest else self.scale // other.scale
        if not isinstance(other, Dim) and int(other) and self.scale % int(other) == 0:
            return Dim(self.factors, self.scale // int(other))
        raise Refused(f"{self} divided by {other}; fix the size with --shape")

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Dim) and int(other) == 0:
            return self
        raise Refused(f"{self} plus {other}; fix the size with --shape")

    __radd__ = __add__

    def __str__(self) -> str:
        return "*".join([*([] if self.scale == 1 else [str(self.scale)]), *self.factors])

    __repr__ = __str__


def is_open(items: Any) -> bool:
    """Whether an array, or a list, holds open sizes."""
    return any(isinstance(item, Dim) for item in getattr(items, "flat", items))
