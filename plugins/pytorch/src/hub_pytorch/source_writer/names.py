"""Names that Python and torch accept, as close to the ONNX names as they can be."""

from __future__ import annotations

import keyword
import re

_LONGEST = 40  # of an attribute's name, so that a statement with one fits on a line
# What the written source itself uses, and names that ruff refuses as ambiguous.
_TAKEN = frozenset({"self", "torch", "nn", "F", "math", "float", "slice", "min", "max", "l", "O", "I"})
_ANONYMOUS = re.compile(r"onnx__\w+_\d+|(val|v|t|w|const)?_?\d+|.*::.*")  # what exporters call a value without a name
_COMPUTED = re.compile(r"const|_output_\d+(_\d+)?$", re.IGNORECASE)
_WEIGHT_WORDS = re.compile(r"(^|[._/])(weight|kernel|w|W)(_\d+)?$")


def identifier(text: str, fallback: str = "value") -> str:
    """A name as an identifier that nothing else in the source needs."""
    word = re.sub(r"_+", "_", re.sub(r"\W", "_", text, flags=re.ASCII)).strip("_") or fallback
    word = f"{fallback}_{word}" if not word.isidentifier() else word
    return f"{word}_" if keyword.iskeyword(word) or word in _TAKEN else word


class Names:
    """Hands out names, each of them once.

    Args:
        taken: Names that are gone already.
    """

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = set(taken)

    def take(self, wanted: str) -> str:
        """The wanted name, or the first free one with a number behind it."""
        found, count = wanted, 0
        while found in self._taken:
            count += 1
            found = f"{wanted}_{count}"
        self._taken.add(found)
        return found


def attribute_names() -> Names:
    """Names for attributes of a module: none that `nn.Module` has itself."""
    import torch

    module = torch.nn.Module()
    return Names(frozenset(dir(module)) | frozenset(vars(module)))


def attribute(path: str, fallback: str) -> str:
    """A dotted path as one attribute name; the end of a long one, which tells more than its beginning."""
    word = identifier(path.replace(".", "_"), fallback)
    if len(word) <= _LONGEST:
        return word
    return identifier(re.sub(r"^[^_]*_", "", word[-_LONGEST:]), fallback)


def is_computed(name: str) -> bool:
    """Whether a constant's name says that it was computed or written down, and not trained."""
    return bool(_COMPUTED.search(name))


def layer_path(weight: str, value: str, kind: str) -> str:
    """A layer's name: its weight's (`encoder.0` for `encoder.0.weight`), its result's path, or its kind."""
    path = weight.rpartition(".")[0] or _WEIGHT_WORDS.sub("", weight)
    if path and not _ANONYMOUS.fullmatch(path) and not is_computed(path):
        return path
    return value.strip("/").rpartition("/")[0].replace("/", ".") or kind
