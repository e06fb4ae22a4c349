"""`hub inspect`, `hub verify` and `hub run`."""

from typing import Any

import click

from hub.cli.options import (
    gate_options,
    model_options,
    parse_options,
    parse_policy,
    parse_runtime,
    runtime_option,
    runtime_options,
    verbosity,
)


@click.command("inspect")
@click.argument("model", metavar="MODEL")
@click.option("--weights", default="", metavar="FILE", help="Weights for a package.module:builder.")
@click.option("--layers", is_flag=True, help="List every operator, and every node that the runtime executes.")
@click.option("--data", default="", metavar="SPEC", help="Samples to execute it on; random when not given.")
@runtime_options
@model_options
@verbosity
def inspect_command(**values: Any) -> None:
    """Show what MODEL is: format, inputs, outputs, operators, precision, findings.

    With --layers also how its runtime executes it: what was fused, in which precision, by whom, for how long.
    """
    from hub._api import inspect_source
    from hub._plugins import Registry
    from hub._request import parse_source
    from hub.cli.render import show_model

    source = parse_source(values["model"], values["weights"])
    how = parse_runtime(values, precision="auto") if values["layers"] else None
    options, registry = parse_options(values), Registry()
    found = inspect_source(source, options, registry, execute=how, data=values["data"], runtime=values["runtime"])
    show_model(found.opened, found.execution, as_json=values["as_json"], layers=values["layers"], lack=found.lack)


@click.command("verify")
@click.argument("source", metavar="SOURCE")
@click.argument("result", metavar="RESULT")
@click.option("--data", default="", metavar="SPEC", help="Samples, as for `hub convert --test`; random when not given.")
@click.option("--precision", default="", metavar="NAME", help="Whose gate applies; by default what the result holds.")
@click.option("--fast", is_flag=True, help="Judge the result by its outputs alone, not layer by layer.")
@gate_options
@runtime_option
@model_options
@verbosity
def verify_command(**values: Any) -> None:
    """Measure RESULT against SOURCE; exit status 6 when the gate does not hold, 8 when the samples prove nothing.

    Where the samples have an array `label`, the accuracy must hold too. A quantized RESULT is held against a float
    model of its own format, layer by layer: SOURCE, a step of its conversion, or what hub makes of SOURCE.
    """
    from hub._api import verify
    from hub._local import describe_local
    from hub._parity import no_evidence
    from hub.cli.render import show_parity
    from hub.spec import VerificationError

    options = parse_options(values)
    report = verify(
        values["source"],
        values["result"],
        data=values["data"],
        numerics=values["precision"],
        options=options,
        policy=parse_policy(values, None),
        runtime=values["runtime"],
        fast=values["fast"],
    )
    show_parity(report, as_json=values["as_json"], verbose=values["verbose"])
    layers = f": {describe_local(report.local)}" if report.local and report.local.failed else ""
    wrong = VerificationError(
        f"{values['result']} does not compute what {values['source']} does{layers}",
        hint="convert again: hub convert, or see the table above",
    )
    error = no_evidence(report, "--data DATA") if report.unproved else wrong
    if not report.passed and not values["as_json"]:
        raise error
    if not report.passed:
        raise click.exceptions.Exit(error.exit_status)


@click.command("run")
@click.argument("model", metavar="MODEL")
@click.option("--data", required=True, metavar="SPEC", help="Samples, as for `hub convert --calibration`.")
@click.option("-o", "--output", required=True, metavar="FILE.npz", help="Where the outputs go, samples along axis 0.")
@click.option("--kernels", default="", metavar="NAME", help="Kernel set of the runtime, such as reference.")
@click.option("--force", is_flag=True, help="Replace the output.")
@runtime_options
@model_options
@verbosity
def run_command(**values: Any) -> None:
    """Run MODEL on data and save its outputs."""
    from pathlib import Path

    from hub._api import run
    from hub._files import check_output
    from hub.cli.render import save_outputs

    inputs = (values["model"], values["data"])
    check_output(Path(values["output"]), force=values["force"], inputs=inputs)
    how = parse_runtime(values, variant=values["kernels"])
    outputs = run(values["model"], values["data"], options=parse_options(values), how=how, runtime=values["runtime"])
    save_outputs(outputs, Path(values["output"]), as_json=values["as_json"])
