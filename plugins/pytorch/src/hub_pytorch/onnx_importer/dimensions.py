"""Dynamic dimensions: a symbol for each, the guards that torch's shape rules put on them, and their names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental import _config as shape_config
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from hub_onnxgraph import Refused

_UNNAMED = {"", "?"}
# Primes: no dimension's size is then another's, or a small multiple of it.
_FACTORS = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
# Sizes that a graph is checked at: all different, none of 0 and 1, the inner ones divisible as images' sides often are.
_BATCH, _INNER = 2, 64


class Dimensions:
    """The symbols of one model.

    Attributes:
        env: torch's own record of symbols and guards.
        sizes: The size that each named dimension is checked at.
        inputs: For each input, the dimension's name at each dynamic axis.
    """

    def __init__(self) -> None:
        self.env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
        self.sizes: dict[str, int] = {}
        self.inputs: dict[str, dict[int, str]] = {}
        self._symbols: dict[str, int | torch.SymInt] = {}
        self._given: dict[str, str] = {}
        self._free = {True: iter(_FACTORS), False: iter(_FACTORS)}
        self._by_torch: set[Any] = set()

    def symbol(self, given: str, owner: str, axis: int) -> int | torch.SymInt:
        """Return the size of an input's axis, whose dimension the model calls `given`.

        Raises:
            Refused: There are more dynamic dimensions than sizes to tell them apart by.
        """
        key = f"{owner}_{axis}" if given in _UNNAMED else given
        if key not in self._given:
            stem = re.sub(r"\W", "_", key)
            stem = stem if stem.isidentifier() else f"_{stem}"
            taken = set(self._given.values())
            names = itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(1)))
            self._given[key] = next(name for name in names if name not in taken)
        name = self._given[key]
        self.inputs.setdefault(owner, {})[axis] = name
        if name not in self._symbols:
            first = axis == 0
            factor = next(self._free[first], None)
            if factor is None:
                raise Refused(f"more than {len(_FACTORS)} dynamic dimensions")
            self.sizes[name] = factor * (_BATCH if first else _INNER)
            source = ConstantSource(name)
            symbol = self.env.create_symbol(
                self.sizes[name],
                source,
                dynamic_dim=DimDynamic.DYNAMIC,
                constraint_dim=None,
                do_not_specialize_zero_one=True,
            )
            self._symbols[name] = self.env.create_symintnode(symbol, hint=self.sizes[name], source=source)
        return self._symbols[name]

    def places(self) -> Iterator[tuple[str, list[tuple[str, int]]]]:
        """Yield each dimension's name with the inputs and axes where it stands."""
        for name in self.sizes:
            yield name, [(i, axis) for i, dims in self.inputs.items() for axis, dim in dims.items() if dim == name]

    def expression(self, name: str) -> Any:
        """Return a dimension's symbol as it was made, before torch may have replaced it."""
        symbol: Any = self._symbols[name]
        return symbol.node._expr  # noqa: SLF001 - .expr has replacements applied

    @contextmanager
    def guards_of_torch(self) -> Iterator[None]:
        """Tell the guards that torch sets meanwhile from those of the importer's own code."""
        before = len(self.env.guards)
        yield
        self._by_torch.update(guard.expr for guard in self.env.guards[before:])

    @property
    def guards(self) -> list[sympy.Basic]:
        """The conditions that the import took to hold, in order, each once."""
        return list(dict.fromkeys(guard.expr for guard in self.env.guards))

    def may_not_matter(self, guard: sympy.Basic) -> bool:
        """Whether a condition may only have been asked to choose a kernel or a layout in memory."""
        return guard in self._by_torch and not isinstance(guard, sympy.Eq)

    def refuse_fixed(self) -> None:
        """Raise when a dimension can only have one size.

        Raises:
            Refused: Names the dimension, where it stands, and how to give its size.
        """
        for name, places in self.places():
            now = self.env.replace(self.expression(name))
            if now.is_number:
                where = ", ".join(f"axis {axis} of input {owner}" for owner, axis in places)
                raise Refused(f"dimension {name} ({where}) cannot stay dynamic here; fix it ({self.hint(places)})")

    def words(self, expression: sympy.Basic) -> str:
        """A condition on sizes, in the names of the dimensions."""
        names = {self.expression(name): sympy.Symbol(name, integer=True) for name in self.sizes}
        return str(expression.xreplace(names))

    def hint(self, places: list[tuple[str, int]]) -> str:
        """How to fix the sizes of the inputs at these places."""
        return " ".join(f"--shape {owner}=..." for owner in dict.fromkeys(owner for owner, _ in places))

    def fix_all(self) -> str:
        """How to fix every dynamic size; empty when there is none."""
        return (
            ""
            if not self.sizes
            else f"; with fixed sizes it may do ({' '.join(f'--shape {i}=...' for i in self.inputs)})"
        )


def undecided() -> Any:
    """A context in which torch does not look at a dimension's example size to see whether it is 1.

    A branch taken because an example size is not 1 would be wrong at size 1.
    """
    return shape_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined] # torch adds it when it is imported
