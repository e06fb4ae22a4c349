"""What a user asks for, parsed and frozen; names checked with did-you-mean."""

import difflib
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import ConvertOptions, Numerics, ParityPolicy, Remark, Runtime, UnknownName, UsageError

if TYPE_CHECKING:
    from hub._plugins import Registry


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model to start from.

    Attributes:
        path: File or folder; empty for a builder.
        builder: `package.module:function` that returns a torch.nn.Module; empty for a file.
        weights: Weights for the builder: `.safetensors` or a state dict; empty for the builder's own.
    """

    path: str = ""
    builder: str = ""
    weights: str = ""

    @property
    def label(self) -> str:
        """What the user wrote."""
        return self.path or self.builder


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One conversion.

    Attributes:
        source: The model.
        target: Format to reach.
        numerics: Precision to reach; None for the source's own.
        output: Where the artifact goes.
        options: Shapes, constants, layout and the like.
        calibration: Calibration spec; empty for none.
        test: Data spec for the parity check (and accuracy, when it has labels); empty to hold calibration data out.
        policy: The user's own gate; None for the precision's.
        announced: What summary and receipt are to say of the request: what it means, where that is not in its words.
        avoid: Edge ids that no route may take.
        require_speedup: Least speed-up over the float form (over the source where there is none); 0 for any.
        runtime: The runtime that results are run in, where it opens their format; empty for the format's own.
        strict: Refuse `int8-mixed` where `int8` was asked for.
        fast: Judge the result by its outputs alone, not layer by layer.
        force: Replace the output.
        use_cache: Whether finished steps may be taken from the cache.
        step_timeout: Seconds for one step.
        search_budget: Seconds after which a step's search ends with the best so far, once it has one; 0 for no bound.
        max_memory_mib: Resident MiB for one step; 0 for no bound.
        random_samples: Samples drawn when there is no data.
    """

    source: Source
    target: str
    numerics: Numerics | None
    output: str
    options: ConvertOptions = ConvertOptions()
    calibration: str = ""
    test: str = ""
    policy: ParityPolicy | None = None
    announced: tuple[Remark, ...] = ()
    avoid: tuple[str, ...] = ()
    require_speedup: float = 0.0
    runtime: str = ""
    strict: bool = False
    fast: bool = False
    force: bool = False
    use_cache: bool = True
    step_timeout: float = 1800.0
    search_budget: float = 0.0
    max_memory_mib: int = 0
    random_samples: int = 4

    @property
    def destination(self) -> Path:
        """The artifact's path."""
        return Path(self.output)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known words, or the first of all."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"known: {', '.join(names[:_MOST_NAMED])}{more}" if names else "there is none to choose from"


_MOST_NAMED = 12
"""Known words that a hint lists at most."""


BARE_INT8 = "int8!"
"""What a bare --int8 stands for: static with calibration data; without, whatever int8 weights the target has."""

_WITHOUT_DATA = {
    Numerics.INT8_DYNAMIC: "int8 weights, activations quantized on the fly",
    Numerics.INT8_WEIGHTS: "int8 weights, float activations",
}


def choose_numerics(
    name: str, *, calibration: bool, offered: Callable[[], Container[Numerics]]
) -> tuple[Numerics | None, tuple[Remark, ...]]:
    """The precision of a name (None for an empty one), and what must be said about the choice.

    `offered` gives the precisions that the target has; it is asked where the name leaves that open.
    """
    if not name:
        return None, ()
    if name != BARE_INT8:
        return parse_numerics(name), ()
    if calibration:
        return Numerics.INT8, ()
    there = offered()
    chosen = next((item for item in _WITHOUT_DATA if item in there), Numerics.INT8_DYNAMIC)
    text = f"--int8 without --calibration means {chosen.value}: {_WITHOUT_DATA[chosen]}"
    return chosen, (Remark("warning", "precision-chosen", text),)


def parse_numerics(name: str) -> Numerics:
    """Read a precision's name.

    Raises:
        UnknownName: There is no such precision.
    """
    known = {numerics.value: numerics for numerics in Numerics}
    if name not in known:
        raise UnknownName(f"there is no precision {name!r}", hint=did_you_mean(name, known))
    return known[name]


def check_target(name: str, formats: Iterable[str]) -> str:
    """Check a target format's name.

    Raises:
        UnknownName: No plugin writes it.
    """
    known = set(formats)
    if name not in known:
        raise UnknownName(f"there is no target {name!r}", hint=did_you_mean(name, known))
    return name


def parse_source(text: str, weights: str = "") -> Source:
    """Tell a path from `package.module:builder`."""
    module, colon, function = text.partition(":")
    names = [*module.split("."), function]
    if colon and not Path(text).exists() and all(name.isidentifier() for name in names):
        return Source(builder=text, weights=weights)
    if weights:
        raise UsageError("--weights goes with a builder", hint="name the builder: hub convert package.module:function")
    return Source(path=text)


def default_output(source: Source, registry: "Registry", target: str, numerics: Numerics | None) -> str:
    """`digits.int8.tflite` for `models/digits.pt2`, here; `digits.tflite` when no precision is asked."""
    stem = Path(source.path).stem if source.path else source.builder.partition(":")[0].rpartition(".")[2]
    suffix = registry.suffix_of(target)
    word = numerics.value if numerics else target
    return f"{stem}.{word}{suffix}" if numerics or suffix == Path(source.path).suffix else f"{stem}{suffix}"


def check_runtime(name: str, format_name: str, runtimes: Mapping[str, Runtime]) -> None:
    """Check the name of a runtime that models of a format are to be run in; an empty one is the format's own.

    Raises:
        UnknownName: There is no such runtime.
        UsageError: It does not open the format.
    """
    if name and name not in runtimes:
        raise UnknownName(f"there is no runtime {name!r}", hint=did_you_mean(name, runtimes))
    if name and format_name not in runtimes[name].formats:
        opens = ", ".join(runtimes[name].formats)
        raise UsageError(f"{name} does not open {format_name} models, only {opens}", hint="leave out --runtime")
