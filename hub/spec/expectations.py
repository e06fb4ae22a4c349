"""Expected failures, declared by people: one vocabulary for planner, kit, matrix and docs.

A plugin ships them as `expectations.toml` inside its import package:

    [[expectation]]
    edge = "keras.tflite-tf-int8"       # an edge id
    operators = ["LSTM", "GRU"]         # applies to models that hold one of these; empty for all models
    numerics = ["int8"]                 # applies to models that compute in one of these; empty for all models
    kind = "unsafe"                     # notimpl | notyet | never | lossy | unsafe | flaky
    reason = "static int8 of an LSTM ends the converter's process with signal 11"
    link = ""                           # tracking link, required for notyet
    versions = "tensorflow-cpu<2.22"    # requirement that must be met for it to apply; empty for all
    measured = ""                       # the measured value, required for lossy
    expires = ""                        # ISO date, required for flaky
"""

import tomllib
from enum import StrEnum

import msgspec

from hub.spec.numerics import Numerics


class ExpectationKind(StrEnum):
    """Why a cell is not a plain pass."""

    NOTIMPL = "notimpl"
    NOTYET = "notyet"
    NEVER = "never"
    LOSSY = "lossy"
    UNSAFE = "unsafe"
    FLAKY = "flaky"

    @property
    def is_avoided(self) -> bool:
        """Whether the planner leaves the edge out for such a model."""
        return self not in {ExpectationKind.LOSSY, ExpectationKind.FLAKY}


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One declared gap. See the module's text for the fields."""

    edge: str
    kind: ExpectationKind
    reason: str
    operators: tuple[str, ...] = ()
    numerics: tuple[Numerics, ...] = ()
    link: str = ""
    versions: str = ""
    measured: str = ""
    expires: str = ""

    def __post_init__(self) -> None:
        needed = {ExpectationKind.NOTYET: "link", ExpectationKind.LOSSY: "measured", ExpectationKind.FLAKY: "expires"}
        field = needed.get(self.kind, "reason")
        if not getattr(self, field):
            raise ValueError(f"expectation for {self.edge}: {self.kind.value} needs `{field}`")


def parse_expectations(text: str) -> tuple[Expectation, ...]:
    """Read the text of an `expectations.toml`.

    Raises:
        ValueError: A field is unknown, missing or of the wrong type (msgspec.ValidationError is one).
    """
    return msgspec.convert(tomllib.loads(text).get("expectation", []), tuple[Expectation, ...])
