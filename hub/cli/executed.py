"""Rendering of how a runtime executes a model, and of how fast it is."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hub.spec import ExecutedLayer, Execution, ExecutionReport, Receipt, Remark, Share, Speed

_FEW = 6
_LONG = 160


def sentence(remark: Remark) -> str:
    """What a remark says, and its hint."""
    return f"{remark.text.removesuffix('.')}. {remark.hint[0].upper()}{remark.hint[1:]}" if remark.hint else remark.text


def decibel_words(value: float) -> str:
    """`43.1 dB`, `exact` or `none`."""
    from hub.spec import SQNR_CAP_DB

    return "exact" if value >= SQNR_CAP_DB else "none" if value <= -SQNR_CAP_DB else f"{value:.1f} dB"


def shortened(text: str) -> str:
    """The first line of a text, as far as a terminal's line or two hold it."""
    line = text.partition("\n")[0]
    return line if len(line) <= _LONG else f"{line[: _LONG - 1].rstrip()}…"


def execution_facts(report: ExecutionReport, source: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What a summary says of an executed graph: name and text, in rich's markup.

    Args:
        report: The executed graph, summed up.
        source: Operators of the source, empty where they are not known.
    """
    counts = [("source", source), ("file", report.operators), ("executed", report.executed)]
    steps = [f"{sum(found.values())} {name}" for name, found in counts if found]
    yield "operators", " → ".join(steps)
    yield "ran as", f"{_shares(report.precisions)} ({escape(report.runtime)} {escape(report.version)})"
    yield "ran on", _shares(report.devices)
    if report.fusions:
        yield "fused", escape(_several([f"{count} {_fewer(what)}" for what, count in report.fusions.items()]))
    if report.eliminated:
        yield "folded", escape(_several([f"{count} {name}" for name, count in report.eliminated.items()]))


def speed_facts(speed: Speed) -> Iterator[tuple[str, str]]:
    """What a summary says of the times."""
    colour = "green" if speed.speedup >= 1 else "yellow"
    earlier = ", measured earlier" if speed.cached else ""
    yield "speed", f"[{colour}]{escape(str(speed))}[/] on {escape(speed.processor)}{earlier}"
    times = (f"{timing.model} {_milliseconds(timing.seconds)} in {timing.runtime}" for timing in speed.timings)
    yield "", escape("; ".join(times))


def result_facts(receipt: Receipt) -> Iterator[tuple[str, str]]:
    """Both, where the receipt has them."""
    if receipt.execution:
        yield from execution_facts(receipt.execution, receipt.operators)
    if receipt.speed:
        yield from speed_facts(receipt.speed)


def show_execution(console: Console, execution: Execution) -> None:
    """Print every executed node, and the sum."""
    console.print(_layers(execution))
    for name, text in execution_facts(execution.report, {}):
        console.print(f"[bold]{name:<10}[/] {text}")
    for name, value in execution.settings.items():
        console.print(f"[bold]{'setting':<10}[/] {escape(name)} {escape(value)}")
    if execution.timed_by:
        console.print(f"[bold]{'time':<10}[/] {escape(execution.timed_by)}")
    for remark in execution.remarks:
        colour = "red" if remark.kind == "deviation" else "yellow"
        console.print(f"[bold {colour}]{remark.kind:<10}[/] {escape(sentence(remark))}")


def _layers(execution: Execution) -> Table:
    table = Table(box=None, header_style="bold", caption_justify="left", pad_edge=False)
    for column in ("", "executed", "precision", "on", "time", "does the work of", "kernel", "name"):
        table.add_column(column, overflow="fold")
    for number, layer in enumerate(execution.layers):
        table.add_row(str(number), *map(escape, _row(layer)))
    return table


def _row(layer: ExecutedLayer) -> tuple[str, ...]:
    share = "" if layer.time_share is None else f"{layer.time_share:.1%}"
    return layer.operator, layer.precision, layer.device, share, " + ".join(layer.covers), layer.kernel, layer.name


def _shares(parts: Mapping[str, Share]) -> str:
    total = sum(part.layers for part in parts.values())
    return ", ".join(f"{escape(name)} {_share(part, total)}" for name, part in parts.items())


def _share(part: Share, total: int) -> str:
    nodes = f"{part.layers} of {total} nodes"
    return nodes if part.time_share is None else f"{nodes}, {part.time_share:.0%} of the time"


def _fewer(fusion: str) -> str:
    """`Conv + Relu -> FusedConv`; of a delegate that takes a hundred operators, the first and their number."""
    covered, _, executed = fusion.rpartition(" -> ")
    operators = covered.split(" + ")
    if len(operators) <= _FEW:
        return fusion
    return f"{' + '.join(operators[:2])} + {len(operators) - 2} more -> {executed}"


def _several(words: list[str]) -> str:
    more = f" and {len(words) - _FEW} more" if len(words) > _FEW else ""
    return ", ".join(words[:_FEW]) + more


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
