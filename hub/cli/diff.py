"""`hub diff`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hub.cli.executed import decibel_words as _db
from hub.cli.options import model_options, parse_options, verbosity
from hub.spec import DiffReport, LayerDiff


@click.command("diff")
@click.argument("model", metavar="A")
@click.argument("other", metavar="B")
@click.option("--data", default="", metavar="SPEC", help="Samples in A's terms, as for `hub run`; else random ones.")
@click.option("--layers", type=click.IntRange(min=1), default=8, show_default=True, help="How many layers to show.")
@click.option("--html", default="", metavar="PAGE.html", help="Draw it all on a page that needs no network.")
@click.option("--force", is_flag=True, help="Replace the page.")
@model_options
@verbosity
def diff_command(**values: Any) -> None:
    """Compare B with A on the same samples: outputs, then tensor by tensor, and what explains the difference.

    Any two formats: tensors inside are matched by name, else by their values up to the order of axes.
    """
    from hub._diff import diff
    from hub._files import check_output
    from hub.cli.render import Progress, out, print_json

    page = Path(values["html"]) if values["html"] else None
    if page:
        from hub._page import check_page

        check_page(page)
        check_output(page, force=values["force"], inputs=(values["model"], values["other"]))
    with Progress(quiet=values["quiet"] or values["as_json"], verbose=values["verbose"]) as events:
        report = diff(
            values["model"],
            values["other"],
            data=values["data"],
            worst=values["layers"],
            options=parse_options(values),
            events=events,
        )
    if page:
        from hub._page import write_page

        write_page(report, page)
    if values["as_json"]:
        first = report.inside.first
        inside = {"inside": {**msgspec.to_builtins(report.inside), "first": first}}
        print_json(msgspec.to_builtins(report) | inside)
    elif not values["quiet"]:
        _show(out(), report, count=values["layers"], verbose=values["verbose"])
        if page:
            out().print(f"[bold]page[/]      {escape(str(page))}")


def _show(console: Console, report: DiffReport, *, count: int, verbose: bool) -> None:
    from hub.cli.executed import sentence

    for name, text in _facts(report):
        console.print(f"[bold]{name:<9}[/] {text}")
    layers = report.inside.layers if verbose else report.inside.worst(count)
    if layers:
        console.print(_layers_table(layers, every=verbose))
    for remark in report.remarks:
        console.print(f"[bold yellow]{remark.kind:<9}[/] {escape(sentence(remark))}")


def _facts(report: DiffReport) -> Iterator[tuple[str, str]]:
    for text in report.swapped:
        yield "swapped", f"[bold red]{escape(text)}[/]"
    for output in sorted(report.outputs, key=lambda item: item.sqnr_db):
        others = [cause.text for cause in output.causes if cause.code != "outputs-swapped"]
        said = "".join(f"; [bold]{escape(text)}[/]" for text in others)
        figures = f"SQNR {_db(output.sqnr_db)}, cosine {output.cosine:.5f}, largest difference {output.max_abs:.3g}"
        yield "output", f"{escape(output.output)}: {figures}{said}"
    inside = report.inside
    if inside.lack:
        yield "layers", escape(inside.lack)
        return
    matched = f"{len(inside.layers)} tensors found in both, of {inside.of[0]} layers of A and {inside.of[1]} of B"
    yield "layers", f"{matched}; {inside.samples} samples"
    first = inside.first
    if first is None:
        yield "first", "no layer is off by more than its precision explains: what differs adds up over the layers"
        return
    alone = "" if first.local_db is None else f", {_db(first.local_db)} by itself"
    yield "first", f"[bold red]{escape(first.layer)}[/] ({escape(first.operator)}){alone}"
    for cause in first.causes:
        yield "", f"[bold]{cause.code}[/]: {escape(cause.text)}"


def _layers_table(layers: tuple[LayerDiff, ...], *, every: bool) -> Table:
    table = Table(box=None, header_style="bold", caption_justify="left", pad_edge=False)
    for column in ("#", "layer", "operator", "A's", "in all", "by itself", "cut off", "at the ends", "why"):
        table.add_column(column, overflow="fold")
    what = "every tensor in A's order" if every else "those that add most"
    table.caption = f"{what}; SQNR of B against A in their whole runs, and of B's layer on B's own inputs"
    for item in layers:
        mark = "[red]" if item.diverges else ""
        table.add_row(
            f"{mark}{item.place}",
            f"{mark}{escape(item.layer)}",
            escape(item.operator),
            "" if item.operator == item.other_operator else escape(item.other_operator),
            _db(item.accumulated_db),
            "" if item.local_db is None else _db(item.local_db),
            "" if item.cut_share is None else f"{item.cut_share:.1%}",
            "" if item.saturated_share is None else f"{item.saturated_share:.1%}",
            ", ".join(cause.code for cause in item.causes),
        )
    return table
