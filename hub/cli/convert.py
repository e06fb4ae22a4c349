"""`hub convert` and `hub plan`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.cli.options import (
    GATE_OPTIONS,
    F,
    model_options,
    parse_options,
    parse_policy,
    runtime_option,
    search_budget_option,
    verbosity,
)

if TYPE_CHECKING:
    from hub._plugins import Registry
    from hub._request import Request


class _Int8Command(click.Command):
    """Lets `--int8=static` and `--int8=dynamic` stand beside the bare `--int8`, which takes no value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the two long forms."""
        forms = {"--int8=static": "--precision=int8", "--int8=dynamic": "--precision=int8-dynamic"}
        return super().parse_args(ctx, [forms.get(word, word) for word in args])


_SHORT = ("fp16", "bf16", "fp8", "int4-weights")
"""Precisions with a flag of their own name."""

_REQUEST_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("model", metavar="MODEL"),
    click.option(
        "--to",
        "target",
        required=True,
        metavar="TARGET",
        help="A format or runtime that `hub plugins` lists: onnx, tflite, keras, pytorch, openvino, onnxruntime, …",
    ),
    click.option("--int8", is_flag=True, help="int8: static with --calibration, weights only without."),
    *(click.option(f"--{name}", is_flag=True, help=f"Short for --precision {name}.") for name in _SHORT),
    click.option(
        "--precision",
        default="",
        metavar="NAME",
        help="fp32, fp16, int8, ... By default the model's own.",
    ),
    click.option(
        "--calibration",
        default="",
        metavar="SPEC",
        help="Real samples: .npz, .npy, a folder, module:function.",
    ),
    click.option(
        "--test",
        "--data",
        "test",
        default="",
        metavar="SPEC",
        help="Samples to check on; an array `label` gives accuracy.",
    ),
    click.option("--weights", default="", metavar="FILE", help="Weights for a package.module:builder."),
    click.option("-o", "--output", default="", metavar="PATH", help="The artifact's path."),
    click.option(
        "--state",
        "states",
        multiple=True,
        metavar="INPUT=OUTPUT",
        help="Keep this state inside the model, from run to run.",
    ),
    click.option(
        "--build-for",
        multiple=True,
        metavar="DEVICE",
        help="Build for this device, in the backend's words (sm86); again for more.",
    ),
    click.option("--io-layout", type=click.Choice(["", "nhwc", "nchw"]), default="", help="Layout of 4-D tensors."),
    click.option("--io-dtype", type=click.Choice(["", "int8"]), default="", help="Integer inputs and outputs."),
    click.option("--force", is_flag=True, help="Replace the output."),
    click.option("--avoid", multiple=True, metavar="EDGE", help="Leave an edge out (`hub plan` names them)."),
    click.option(
        "--require-speedup",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="X",
        help="Fail unless X times as fast as the float form (the source where there is none).",
    ),
    runtime_option,
    click.option("--strict", is_flag=True, help="Refuse int8-mixed where int8 is asked for."),
    click.option("--fast", is_flag=True, help="Judge the result by its outputs alone, not layer by layer."),
    click.option("--no-cache", is_flag=True, help="Run every step again."),
    *GATE_OPTIONS,
    search_budget_option,
    click.option("--step-timeout", type=float, default=1800.0, show_default=True, help="Seconds for one step."),
    click.option("--max-memory", type=int, default=0, metavar="MIB", help="Memory for one step; 0 for no bound."),
    click.option("--seed", type=int, default=0, show_default=True, help="For random inputs."),
)


def _request_options(function: F) -> F:
    for option in reversed(_REQUEST_OPTIONS):
        function = option(function)
    return function


@click.command("convert", cls=_Int8Command)
@_request_options
@model_options
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@verbosity
def convert_command(**values: Any) -> None:
    """Convert MODEL (a file, a folder, or package.module:builder), verify the result and write it with its receipt."""
    if values["dry_run"]:
        _show_plan(values)
        return
    from hub._plugins import Registry
    from hub._repeat import repeated
    from hub.cli.render import Progress
    from hub.cli.summary import show_receipt
    from hub.spec import Remark

    registry = Registry()
    request = _request(values, registry)
    with Progress(quiet=values["quiet"], verbose=values["verbose"]) as progress:
        receipt = repeated(request)
        if receipt:
            text = "done before, of the same files with the same tools: taken from the cache"
            progress.noted(Remark("note", "repeated", text))
        else:
            from hub._api import run_request

            receipt = run_request(request, registry, progress)
    show_receipt(receipt, as_json=values["as_json"], quiet=values["quiet"], verbose=values["verbose"])


@click.command("plan", cls=_Int8Command)
@_request_options
@model_options
@verbosity
def plan_command(**values: Any) -> None:
    """Show the routes from MODEL to a target in the order they would be tried; with -v also every edge left out."""
    _show_plan(values)


def _show_plan(values: dict[str, Any]) -> None:
    from hub._api import plan_request
    from hub._plugins import Registry
    from hub.cli.render import show_plan

    registry = Registry()
    request = _request(values, registry)
    opened, plan = plan_request(request, registry)
    show_plan(request, opened.summary, plan, as_json=values["as_json"], verbose=values["verbose"])


def _request(values: dict[str, Any], registry: "Registry") -> "Request":
    from hub._request import Request, choose_numerics, default_output, parse_source

    source = parse_source(values["model"], values["weights"])
    numerics, announced = choose_numerics(
        _precision(values),
        calibration=bool(values["calibration"]),
        offered=lambda: registry.numerics_of(values["target"], Path(values["output"])),
    )
    return Request(
        source=source,
        target=values["target"],
        numerics=numerics,
        output=values["output"] or default_output(source, registry, values["target"], numerics),
        options=parse_options(values),
        calibration=values["calibration"],
        test=values["test"],
        policy=parse_policy(values, numerics),
        announced=announced,
        avoid=values["avoid"],
        require_speedup=values["require_speedup"],
        runtime=values["runtime"],
        strict=values["strict"],
        fast=values["fast"],
        force=values["force"],
        use_cache=not values["no_cache"],
        step_timeout=values["step_timeout"],
        search_budget=values["search_budget"],
        max_memory_mib=values["max_memory"],
    )


def _precision(values: dict[str, Any]) -> str:
    from hub._request import BARE_INT8

    flags = {"int8": BARE_INT8} | {name: name for name in _SHORT}
    asked = [name for flag, name in flags.items() if values[flag.replace("-", "_")]]
    asked += [values["precision"]] if values["precision"] else []
    if len(asked) > 1:
        words = ", ".join(f"--{flag}" for flag in flags)
        raise click.UsageError(f"{words} and --precision name one precision: give one of them")
    return asked[0] if asked else ""
