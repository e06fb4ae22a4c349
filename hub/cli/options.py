"""Options that several commands share, and their parsing."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hub.spec import ConvertOptions, DimRange, DType, Numerics, ParityPolicy, RuntimeOptions

F = TypeVar("F", bound=Callable[..., Any])

_MODEL_OPTIONS = (
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="INPUT=1x3x320x320[:DTYPE]",
        help="Fix an input's shape; 1..8x3x320x320 keeps dimensions open from 1 to 8.",
    ),
    click.option("--constant", "constants", multiple=True, metavar="INPUT=VALUE", help="Freeze an input to a value."),
    click.option("--submodule", default="", metavar="NAME", help="Take this submodule of a PyTorch model."),
    click.option("--allow-pickle", is_flag=True, help="Let code that came with the model run, in the worker."),
    click.option("--allow-custom-ops", is_flag=True, help="Accept Flex and custom operators."),
)
_VERBOSITY = (
    click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, all else on error."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    click.option("-v", "--verbose", is_flag=True, help="Say more: notes, logs, tracebacks."),
)


GATE_OPTIONS = (
    click.option("--max-relative", type=float, help="Your own gate: largest relative error."),
    click.option("--min-cosine", type=float, help="Your own gate: smallest cosine."),
    click.option("--min-sqnr", type=float, help="Your own gate: smallest SQNR in dB."),
)
_RUNTIME_OPTIONS = (
    click.option("--device", default="cpu", show_default=True, metavar="NAME", help="Device that the runtime knows."),
    click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads; 0 for the runtime's default."),
    click.option(
        "--inference-precision",
        type=click.Choice(["", "f32", "f16", "bf16", "auto"]),
        default="",
        help="What a float model is computed in; auto: as the runtime chooses.",
    ),
)


runtime_option = click.option(
    "--runtime", default="", metavar="NAME", help="Who runs it; by default the runtime of its format's own plugin."
)


search_budget_option = click.option(
    "--search-budget",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="End a step's search for a recipe after this long with the best so far, as Ctrl-C does; 0 for no bound.",
)


def runtime_options(function: F) -> F:
    """Add the options that say how to run a model."""
    return _with(function, (runtime_option, *_RUNTIME_OPTIONS))


def model_options(function: F) -> F:
    """Add the options that say how to read a model."""
    return _with(function, _MODEL_OPTIONS)


def gate_options(function: F) -> F:
    """Add the options for a gate of the user's own."""
    return _with(function, GATE_OPTIONS)


def verbosity(function: F) -> F:
    """Add --json, -q and -v."""
    return _with(function, _VERBOSITY)


def _with(function: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def parse_options(values: dict[str, Any]) -> "ConvertOptions":
    """Build the options record from click's values."""
    from hub.spec import ConvertOptions

    shapes = [_parse_shape(text) for text in values["shapes"]]
    open_ones = {name for name, sizes, _ in shapes if any(size.low < size.high for size in sizes)}
    return ConvertOptions(
        shapes={name: tuple(size.low for size in sizes) for name, sizes, _ in shapes if name not in open_ones},
        ranges={name: sizes for name, sizes, _ in shapes if name in open_ones},
        build_for=tuple(values.get("build_for", ())),
        dtypes={name: dtype for name, _, dtype in shapes if dtype},
        constants=dict(_parse_constant(text) for text in values["constants"]),
        states=dict(_parse_state(text) for text in values.get("states", ())),
        io_layout=values.get("io_layout", ""),
        io_dtype=values.get("io_dtype", ""),
        allow_pickle=values["allow_pickle"],
        allow_custom_ops=values["allow_custom_ops"],
        submodule=values["submodule"],
        seed=values.get("seed", 0),
    )


def parse_runtime(values: dict[str, Any], *, variant: str = "", precision: str = "") -> "RuntimeOptions":
    """Build the runtime's options from click's values; `precision` is the default where the user names none."""
    from hub.spec import RuntimeOptions

    asked = values["inference_precision"] or precision
    return RuntimeOptions(
        variant=variant,
        device=values["device"],
        threads=values["threads"],
        precision="" if asked == "f32" else asked,
        allow_pickle=values["allow_pickle"],
        allow_custom_ops=values["allow_custom_ops"],
        submodule=values["submodule"],
    )


def _parse_shape(text: str) -> "tuple[str, tuple[DimRange, ...], DType | None]":
    name, equals, rest = text.rpartition("=")
    sizes, _, dtype = rest.partition(":")
    parts = [_parse_size(part) for part in sizes.split("x") if part]
    found = tuple(part for part in parts if part)
    if not equals or len(found) < len(parts):
        hint = "is not INPUT=1x3x320x320, nor INPUT=1..8x3x320x320 (smallest..largest, or smallest..usual..largest)"
        raise click.BadParameter(f"{text!r} {hint}", param_hint="--shape")
    return name, found, _parse_dtype(dtype) if dtype else None


def _parse_size(text: str) -> "DimRange | None":
    """`8`, `1..8` or `1..4..8`; None for anything else."""
    from hub.spec import DimRange

    words = text.split("..")
    if len(words) > 3 or not all(word.isdigit() for word in words):  # noqa: PLR2004 smallest, usual, largest
        return None
    low, best, high = int(words[0]), int(words[len(words) // 2]), int(words[-1])
    return DimRange(low=low, best=best, high=high) if 0 < low <= best <= high else None


def _parse_dtype(text: str) -> "DType":
    from hub._request import did_you_mean
    from hub.spec import DType

    known = {dtype.value for dtype in DType}
    if text not in known:
        raise click.BadParameter(f"there is no dtype {text!r}; {did_you_mean(text, known)}", param_hint="--shape")
    return DType(text)


def _parse_state(text: str) -> tuple[str, str]:
    name, _, output = text.partition("=")
    if not name or not output:
        raise click.BadParameter(f"{text!r} is not INPUT=OUTPUT", param_hint="--state")
    return name, output


def _parse_constant(text: str) -> tuple[str, int | float | bool]:
    name, equals, value = text.rpartition("=")
    words = {"true": True, "false": False}
    try:
        number = words[value.lower()] if value.lower() in words else float(value)
    except ValueError:
        equals, number = "", 0.0
    if not equals:
        raise click.BadParameter(f"{text!r} is not INPUT=NUMBER", param_hint="--constant")
    whole = not isinstance(number, bool) and number.is_integer() and "." not in value and "e" not in value.lower()
    return name, int(number) if whole else number


def parse_policy(values: dict[str, Any], numerics: "Numerics | None") -> "ParityPolicy | None":
    """The user's own gate; None where no bound is given."""
    bounds = {
        "relative_max": values["max_relative"],
        "cosine_min": values["min_cosine"],
        "sqnr_min_db": values["min_sqnr"],
    }
    if all(bound is None for bound in bounds.values()):
        return None
    from hub.spec import Numerics, ParityPolicy

    return ParityPolicy(numerics=numerics or Numerics.FP32, source="set on the command line", custom=True, **bounds)
