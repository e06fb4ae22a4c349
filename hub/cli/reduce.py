"""`hub reduce`."""

from typing import Any

import click

from hub.cli.options import model_options, parse_options, verbosity
from hub.spec import ReduceReport


@click.command("reduce")
@click.argument("model", metavar="A")
@click.argument("other", metavar="B")
@click.option("--data", default="", metavar="SPEC", help="Samples in A's terms, as for `hub run`; else random ones.")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where the case is written.")
@click.option("--force", is_flag=True, help="Replace an earlier case.")
@model_options
@verbosity
def reduce_command(**values: Any) -> None:
    """Cut the first layer of B that fails by itself out of it, beside the layers of A that it does the work of.

    FOLDER gets both parts, what they are fed, a script that needs the vendor's runtime alone, and a README: a report
    for who made the runtime or the converter. Nothing is written where no layer fails by itself.
    """
    from hub._reduce import reduce
    from hub.cli.render import Progress, print_json

    with Progress(quiet=values["quiet"] or values["as_json"], verbose=values["verbose"]) as events:
        report = reduce(
            values["model"],
            values["other"],
            values["output"],
            data=values["data"],
            force=values["force"],
            options=parse_options(values),
            events=events,
        )
    if values["as_json"]:
        print_json(report)
    elif not values["quiet"]:
        _show(report, verbose=values["verbose"])


def _show(report: ReduceReport, *, verbose: bool) -> None:
    from rich.markup import escape

    from hub.cli.executed import decibel_words
    from hub.cli.render import out

    case, console = report.case, out()
    if case.layer is None:
        console.print(f"[green]✓[/] nothing to reduce: {escape(case.lack)}")
        return
    figures = f"{decibel_words(case.sqnr_db)} where rounding leaves {decibel_words(case.least_db)}"
    console.print(f"[bold]fails[/]  [bold red]{escape(case.layer.layer)}[/] ({escape(case.layer.operator)}), {figures}")
    for cause in case.layer.causes:
        console.print(f"[bold]why[/]    {cause.code}: {escape(cause.text)}")
    if verbose:
        for letter, names in zip("AB", case.parts, strict=True):
            console.print(f"[bold]{letter}'s[/]    {escape(', '.join(names))}")
    console.print(f"[bold]case[/]   {escape(report.folder)}: python {escape(report.folder)}/repro.py exits with 1")
