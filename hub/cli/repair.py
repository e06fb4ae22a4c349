"""`hub repair`."""

from typing import Any

import click

from hub.cli.options import (
    gate_options,
    model_options,
    parse_options,
    parse_policy,
    runtime_option,
    search_budget_option,
    verbosity,
)


@click.command("repair")
@click.argument("result", metavar="RESULT")
@click.option(
    "--source", default="", metavar="MODEL", help="The model that RESULT was made of; by default its receipt names it."
)
@click.option("--weights", default="", metavar="FILE", help="Weights for a package.module:builder.")
@click.option(
    "--calibration", default="", metavar="SPEC", help="Real samples; by default those that the receipt names."
)
@click.option(
    "--test", "--data", "test", default="", metavar="SPEC", help="Samples to judge on; by default as in the receipt."
)
@click.option(
    "-o",
    "--output",
    default="",
    metavar="PATH",
    help="The new artifact; by default NAME.repaired.SUFFIX beside RESULT.",
)
@click.option("--force", is_flag=True, help="Replace the output, which may be RESULT itself.")
@runtime_option
@click.option("--strict", is_flag=True, help="Refuse int8-mixed in the place of int8.")
@click.option("--no-cache", is_flag=True, help="Run every step again.")
@search_budget_option
@click.option("--step-timeout", type=float, default=1800.0, show_default=True, help="Seconds for one step.")
@click.option("--max-memory", type=int, default=0, metavar="MIB", help="Memory for one step; 0 for no bound.")
@gate_options
@model_options
@verbosity
def repair_command(**values: Any) -> None:
    """Judge RESULT against its source, outputs and layers; where it is wrong, make a right one by the least change.

    Nothing is written where it is right. Else the source is converted again to the same format and precision, with the
    layers that int8 breaks in float, and proved by the same gate.
    """
    from hub._api import repair_request
    from hub._plugins import Registry
    from hub._request import Request, Source, parse_source
    from hub.cli.render import Progress
    from hub.cli.summary import show_repair

    source = values["source"]
    request = Request(
        source=parse_source(source, values["weights"]) if source else Source(),
        target="",
        numerics=None,
        output=values["output"],
        options=parse_options(values),
        calibration=values["calibration"],
        test=values["test"],
        policy=parse_policy(values, None),
        runtime=values["runtime"],
        strict=values["strict"],
        force=values["force"],
        use_cache=not values["no_cache"],
        step_timeout=values["step_timeout"],
        search_budget=values["search_budget"],
        max_memory_mib=values["max_memory"],
    )
    with Progress(quiet=values["quiet"], verbose=values["verbose"]) as progress:
        report = repair_request(values["result"], request, Registry(), progress)
    show_repair(report, as_json=values["as_json"], quiet=values["quiet"], verbose=values["verbose"])
