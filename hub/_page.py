"""The page of `hub diff`: one file that needs no network. Bokeh draws, Jinja writes; both are the extra `page`."""

import importlib.util
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import SQNR_CAP_DB, DependencyMissing, DiffReport, InsideDiff, OutputExists, TensorDetail

if TYPE_CHECKING:
    from bokeh.model import Model
    from bokeh.models import Range1d
    from bokeh.plotting import figure

MOST_DB = 140.0
"""What is nearer is drawn with what is exact, above all others."""

LEAST_DB = -20.0

FAR_DB = 10.0
"""A channel that has ten times the noise of the middle one is marked."""

LEFT = 72
"""Pixels left of every drawing, for its numbers: so the places of two that stand above each other line up."""

MOST_LEVELS = 300
"""Levels of a grid that can be told apart in a drawing."""

_A, _B, _BAD = "#7a8793", "#1f6feb", "#c0392b"


def check_page(path: Path) -> None:
    """Refuse before any work is done where what draws is not installed, or the page would replace what is no page.

    Raises:
        DependencyMissing: With the command that installs it.
        OutputExists: There is another kind of file.
    """
    if path.is_file() and not path.read_bytes()[:64].lstrip().lower().startswith(b"<!doctype html"):
        raise OutputExists(f"{path} exists and is no page", hint="name another file: --html PAGE.html")
    if importlib.util.find_spec("bokeh") is None:
        raise DependencyMissing(
            "the page is drawn by bokeh, which is not installed", hint="pip install 'hub-convert[page]'"
        )


def write_page(report: DiffReport, path: Path) -> None:
    """Write the page."""
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment

    inside = report.inside
    by_place = {layer.place: layer for layer in inside.layers}
    drawn: dict[str, Model] = {"graph": (graph := graph_chart(inside))} if inside.layers else {}
    if any(layer.saturated_share is not None for layer in inside.layers):
        drawn["saturation"] = (ranges := saturation_chart(inside))
        graph.x_range = ranges.x_range = _places(inside)  # what is moved in one moves in the other
    details = sorted(inside.details, key=lambda detail: by_place[detail.place].added_db)
    for detail in details:
        drawn[f"histogram {detail.place}"] = histogram_chart(detail)
        if detail.channels:
            drawn[f"channels {detail.place}"] = channels_chart(detail)
    script, charts = components(drawn) if drawn else ("", {})
    worst = [
        (
            by_place[detail.place],
            [charts[key] for key in (f"histogram {detail.place}", f"channels {detail.place}") if key in charts],
        )
        for detail in details
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["db"] = _db
    template = environment.from_string(Path(__file__).with_name("_page.html.jinja").read_text())
    page = template.render(
        report=report,
        names=[Path(model.path).name for model in (report.model, report.other)],
        first=inside.first,
        charts=charts,
        worst=worst,
        script=script,
        library=Resources(mode="inline", components=["bokeh"]).render_js(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def _db(value: float) -> str:
    return "exact" if value >= SQNR_CAP_DB else "none" if value <= -SQNR_CAP_DB else f"{value:.1f} dB"


def top_of(values: Iterable[float]) -> float:
    """Where in a drawing what is exact lies, so that the others have room."""
    return max([value * 1.15 + 3 for value in values if value < MOST_DB], default=MOST_DB)


def _figure(height: int, title: str, across: str, up: str) -> "figure":
    from bokeh.plotting import figure

    chart = figure(
        height=height, sizing_mode="stretch_width", title=title, x_axis_label=across, y_axis_label=up,
        tools="pan,box_zoom,reset,save", toolbar_location="above", active_drag=None,
    )  # fmt: skip
    chart.toolbar.logo = None
    chart.min_border_right = 16
    chart.min_border_left = LEFT
    return chart


def _places(inside: InsideDiff) -> "Range1d":
    from bokeh.models import Range1d

    places = [layer.place for layer in inside.layers]
    return Range1d(start=min(places) - 1, end=max(places) + 1)


def graph_chart(inside: InsideDiff) -> "figure":
    """SQNR of every tensor in execution order."""
    from bokeh.models import ColumnDataSource, HoverTool

    chart = _figure(380, "", "place in A's order of execution", "SQNR (dB)")
    layers = inside.layers
    top = top_of(value for layer in layers for value in (layer.accumulated_db, layer.local_db) if value is not None)
    for name, colour, values in (
        ("in all", _A, [layer.accumulated_db for layer in layers]),
        ("by itself", _B, [layer.local_db for layer in layers]),
    ):
        known = [(layer, value) for layer, value in zip(layers, values, strict=True) if value is not None]
        source = ColumnDataSource(
            {
                "x": [layer.place for layer, _ in known],
                "y": [max(LEAST_DB, min(top, value)) for _, value in known],
                "db": [_db(value) for _, value in known],
                "layer": [layer.layer for layer, _ in known],
                "operator": [f"{layer.other_operator} → {layer.operator}" for layer, _ in known],
                "why": ["; ".join(cause.text for cause in layer.causes) for layer, _ in known],
                "colour": [_BAD if layer.diverges else colour for layer, _ in known],
            }
        )
        chart.line("x", "y", source=source, color=colour, line_width=1.5, legend_label=name, alpha=0.7)
        points = chart.scatter("x", "y", source=source, color="colour", size=7, legend_label=name)
        tips = [(name, "@db"), ("layer", "@layer"), ("operator", "@operator"), ("why", "@why")]
        chart.add_tools(HoverTool(renderers=[points], tooltips=tips))
    chart.legend[0].click_policy = "hide"
    _legend_above(chart)
    return chart


def saturation_chart(inside: InsideDiff) -> "figure":
    """Shares at the ends of the range, and cut off, in execution order."""
    from bokeh.models import ColumnDataSource, DataRange1d, HoverTool

    chart = _figure(260, "", "place in A's order of execution", "share of the values (%)")
    chart.y_range = DataRange1d(start=0)
    known = [layer for layer in inside.layers if layer.saturated_share is not None]
    for name, colour, shift, shares in (
        ("at the ends of the range", _A, -0.2, [layer.saturated_share for layer in known]),
        ("cut off", _BAD, 0.2, [layer.cut_share for layer in known]),
    ):
        source = ColumnDataSource(
            {
                "x": [layer.place + shift for layer in known],
                "share": [100 * (share or 0.0) for share in shares],
                "layer": [layer.layer for layer in known],
            }
        )
        bars = chart.vbar("x", width=0.4, top="share", source=source, color=colour, legend_label=name)
        chart.add_tools(HoverTool(renderers=[bars], tooltips=[("layer", "@layer"), (name, "@share{0.0} %")]))
    _legend_above(chart)
    return chart


def _legend_above(chart: "figure", columns: int = 2) -> None:
    legend = chart.legend[0]
    legend.orientation, legend.ncols = "horizontal", columns
    chart.add_layout(legend, "above")


def histogram_chart(detail: TensorDetail) -> "figure":
    """Values of both models over the same bins, with the grid that B has for them."""
    chart = _figure(300, "values, and B's grid" if detail.quant else "values", "value", "log10(1 + how many)")
    left, right = list(detail.edges[:-1]), list(detail.edges[1:])
    for name, colour, counts, filled in (("A's layer", _A, detail.other_counts, 0.5), ("B", _B, detail.counts, 0.0)):
        chart.quad(
            left=left, right=right, bottom=0, top=[_log(count) for count in counts], fill_color=colour,
            fill_alpha=filled, line_color=colour, line_alpha=0.2 if filled else 1.0, legend_label=name,
        )  # fmt: skip
    if detail.quant and detail.low is not None and detail.high is not None:
        ends = [detail.low, detail.high]
        chart.vspan(x=ends, line_color=_BAD, line_width=2, legend_label="ends of B's range")
        marks = levels_in(detail, left[0], right[-1])
        if len(marks) <= MOST_LEVELS:
            deep = -0.08 * max(_log(count) for count in (*detail.counts, *detail.other_counts))
            many = len(marks)
            chart.segment(marks, [deep] * many, marks, [0.0] * many, color="#1f2328", legend_label="levels of B's grid")
    _legend_above(chart)
    return chart


def levels_in(detail: TensorDetail, first: float, last: float) -> list[float]:
    """The levels of a grid with one scale between two values."""
    if not detail.quant or len(detail.quant.scale) > 1 or detail.low is None or detail.high is None:
        return []
    step, low = detail.quant.scale[0], detail.low
    start = max(0, math.ceil((first - low) / step - 1e-6))
    end = math.floor((min(last, detail.high) - low) / step + 1e-6)
    return [low + index * step for index in range(start, end + 1)]


def _log(count: int) -> float:
    return math.log10(1 + count)


def channels_chart(detail: TensorDetail) -> "figure":
    """SQNR of each channel."""
    from bokeh.models import HoverTool

    chart = _figure(300, f"each channel along axis {detail.axis} of A's tensor", "channel", "SQNR (dB)")
    top = top_of(detail.channels)
    tops = [max(LEAST_DB, min(top, value)) for value in detail.channels]
    middle = statistics.median([value for value in tops if value < top] or tops)
    colours = [_BAD if value < middle - FAR_DB else _B for value in tops]
    bars = chart.vbar(list(range(len(tops))), width=0.8, top=tops, bottom=0, color=colours)
    chart.add_tools(HoverTool(renderers=[bars], tooltips=[("channel", "@x"), ("SQNR", "@top{0.0} dB")]))
    return chart
