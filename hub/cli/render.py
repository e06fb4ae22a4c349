"""Results as tables for people, or as one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hub._layer_bounds import layers_words
from hub._plugins import Registry
from hub._requirements import missing_requirements
from hub.cli.executed import decibel_words as _db
from hub.cli.executed import sentence, shortened, show_execution
from hub.cli.harmless import MOST, harmless, more, shown
from hub.cli.report import encode_json
from hub.spec import (
    Accepts,
    Accuracy,
    Edge,
    Execution,
    FailedAttempt,
    Gives,
    ModelSummary,
    Numerics,
    OutputParity,
    ParityReport,
    Remark,
    Signature,
    StepRecord,
    cache_root,
)

if TYPE_CHECKING:
    from rich.status import Status

    from hub._opening import Opened
    from hub._request import Request
    from hub._routing import Plan
    from hub.spec.calibration import Feeds


class HarmlessConsole(Console):
    """Makes harmless whatever it prints, cells of tables too: each text that is printed passes `render_str`."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Parse a text's markup; what is left acts on no terminal, and is not too long for one."""
        parsed = super().render_str(text, **how)
        whole = parsed.plain
        parsed.plain = harmless(whole)
        return parsed[:MOST].append(more(whole)) if len(whole) > MOST else parsed


def out() -> Console:
    """The console of results; wide when it is not a terminal, so that nothing is cut in logs."""
    return HarmlessConsole(
        width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=not sys.stdout.isatty()
    )


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(encode_json(value, indent=2))


class Progress:
    """Tells on standard error how a conversion goes; implements the engine's events."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._console = HarmlessConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._verbose = verbose
        self._status: Status | None = None
        self._told: set[str] = set()  # edges

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def started(self, what: str) -> None:
        """Show what is going on."""
        if self._status:
            self._status.update(escape(shown(what)))
        elif self._verbose:
            self._console.print(f"[dim]… {escape(what)}[/]")

    def planned(self, summary: ModelSummary, plan: Plan) -> None:
        """Say what was found before the slow part, and what hub will do about it."""
        route, *more = plan.routes
        words = " → ".join(escape(step.title) for step in route)
        behind = f", {len(more)} more behind it" if more else ""
        self._console.print(f"[bold]route[/] {words}{behind}")
        for remark in _preflight(summary, plan, verbose=self._verbose):
            self.noted(remark)

    def finished(self, record: StepRecord) -> None:
        """Say that a step ended, and how right it is; of one that several routes begin with, once."""
        if record.cached and record.edge in self._told and not self._verbose:
            return
        self._told.add(record.edge)
        how = "from the cache" if record.cached else f"{record.seconds:.1f} s"
        mark = "[green]✓[/]" if record.parity and record.parity.passed else "[red]✗[/]"
        worst = f", SQNR {_db(record.parity.worst.sqnr_db)}" if record.parity else ""
        if record.not_run:
            mark, worst = "[yellow]•[/]", ", built and not run"
        self._console.print(f"{mark} {escape(record.title)} → {record.artifact.state} ({how}{worst})")
        for note in record.notes if self._verbose else ():
            self.noted(note)

    def noted(self, remark: Remark) -> None:
        """Say what was found, or done unasked."""
        self._console.print(f"[yellow]·[/] {escape(sentence(remark))}")

    def failed(self, attempt: FailedAttempt) -> None:
        """Say that a route was given up and the next is tried; of one that was not begun only where much is said."""
        if attempt.refused and not self._verbose:
            return
        who = attempt.edge if self._verbose else attempt.title or attempt.edge
        self._console.print(
            f"[red]✗[/] {escape(who)}: {escape(attempt.message if self._verbose else shortened(attempt.message))}"
        )
        if attempt.log and self._verbose:
            self._console.print(f"  [dim]log and reproduce.py: {escape(attempt.log)}[/]")


def accuracy_words(found: Accuracy) -> str:
    """`99.00% → 98.75% on 400 labelled samples`, and what is wrong with that."""
    failure = f": [red]{escape(found.failure)}[/]" if found.failure else ""
    return f"{found.source:.2%} → {found.result:.2%} on {found.samples} labelled samples{failure}"


def parity_table(report: ParityReport) -> Table:
    """Each output in each kernel set, with its figures."""
    title = f"against the source in {report.reference_runtime}, {report.inputs} inputs; gate: {_gate(report)}"
    table = plain_table(
        "output", "runtime", "samples", "max abs", "mean abs", "relative", "cosine", "SQNR", "top-1", "gate"
    )
    table.caption = escape(title)
    for item in report.outputs:
        table.add_row(*_parity_row(item))
    return table


def _parity_row(item: OutputParity) -> tuple[str, ...]:
    return (
        escape(item.output),
        item.runtime,
        str(item.samples),
        f"{item.max_abs:.3g}",
        f"{item.mean_abs:.3g}",
        f"{item.relative:.2g}",
        f"{item.cosine:.5f}",
        _db(item.sqnr_db),
        "" if item.top1 is None else f"{item.top1:.1%}",
        f"[yellow]no evidence: {escape(item.unproved)}[/]"
        if item.unproved
        else verdict(not item.failures)
        if not item.failures
        else f"[red]{escape('; '.join(item.failures))}[/]",
    )


def _gate(report: ParityReport) -> str:
    policy = report.policy
    bounds = (
        ("relative ≤", policy.relative_max),
        ("cosine ≥", policy.cosine_min),
        ("SQNR dB ≥", policy.sqnr_min_db),
        ("top-1 ≥", policy.top1_min),
    )
    return ", ".join(f"{name} {bound:g}" for name, bound in bounds if bound is not None)


def show_evidence(console: Console, report: ParityReport, *, verbose: bool) -> None:
    """One line: what was looked at beside the whole; with `verbose` each bound, and what it found where."""
    policy, outputs = report.policy, report.outputs
    if policy.centred_min_db is None:
        return
    centred = min((item.centred_sqnr_db for item in outputs if item.centred_sqnr_db is not None), default=None)
    single = min((item.worst_db for item in outputs if item.worst_db is not None), default=None)
    rows = sum(item.top1_rows for item in outputs)
    said = [
        "" if centred is None else f"{_db(centred)} without the mean (≥ {policy.centred_min_db:g})",
        "no sample or component stands out" if single is None else
        f"{_db(single)} where the noise stands out (≥ {policy.single_min_db:g})",
        f"{rows} rows with a clear class" if rows else "",
    ]  # fmt: skip
    console.print(f"[bold]{'evidence':<9}[/] {', '.join(filter(None, said))}")
    for item in outputs if verbose else ():
        worst = f"; {item.worst_at} stands out with {_db(item.worst_db)}" if item.worst_db is not None else ""
        mean = "moves nowhere" if item.centred_sqnr_db is None else f"{_db(item.centred_sqnr_db)} without the mean"
        console.print(escape(f"  {item.output} on {item.runtime}: {mean}, {item.top1_rows} clear rows{worst}"))
    if verbose:
        console.print(escape(f"  gate of {policy.numerics.value}: {policy.source}"))


def show_parity(report: ParityReport, *, as_json: bool, verbose: bool) -> None:
    """Show a measurement."""
    if as_json:
        print_json(report)
        return
    console = out()
    console.print(parity_table(report))
    show_evidence(console, report, verbose=verbose)
    if report.accuracy:
        console.print(f"[bold]{'accuracy':<9}[/] {accuracy_words(report.accuracy)}")
    show_guilty(console, report)
    for remark in report.remarks:
        console.print(f"[bold yellow]{remark.kind}[/]   {escape(sentence(remark))}")


def show_guilty(console: Console, report: ParityReport) -> None:
    """The layers that are not the float model's."""
    if report.local:
        console.print(f"[bold]{'layers':<9}[/] {escape(layers_words(report.local))}")
        for item in report.local.worst[: report.local.failed]:
            said = f"{item.layer} ({item.operator}), {item.what} {item.tensor}: {'; '.join(item.failures)}"
            console.print(f"[red]{'✗':>9}[/] {escape(shortened(said))}")


def show_plan(request: Request, summary: ModelSummary, plan: Plan, *, as_json: bool, verbose: bool) -> None:
    """Show routes in the order they would be tried; with `verbose` also what was left out."""
    if as_json:
        routes = [[step.edge.id for step in route] for route in plan.routes]
        found = {
            "findings": summary.findings,
            "doubts": plan.doubts,
            "history": plan.history,
            "left_out": plan.left_out,
        }
        print_json({"source": str(summary.state), "routes": routes} | found)
        return
    console = out()
    wanted = request.numerics or summary.state.numerics
    table = plain_table(
        "",
        f"route from {summary.state} to {request.target}/{wanted.value}",
        "lossy steps",
        "cost",
    )
    for number, route in enumerate(plan.routes, start=1):
        words = " → ".join(f"{step.title} ({step.target})" for step in route)
        lossy, cost = sum(step.edge.lossy for step in route), sum(step.cost for step in route)
        table.add_row(str(number), escape(words), str(lossy), f"{cost:g}")
    console.print(table)
    for remark in request.announced:
        console.print(f"[yellow]note[/]  {escape(sentence(remark))}")
    for remark in _preflight(summary, plan, verbose=verbose):
        console.print(f"[yellow]·[/]  {escape(sentence(remark))}")
    if plan.left_out and not verbose:
        console.print(f"[dim]{len(plan.left_out)} edges are left out; -v says why[/]")
    for edge, remark in plan.left_out.items() if verbose else ():
        console.print(f"[dim]left out[/]  {edge}: {escape(remark.text)}")


def _preflight(summary: ModelSummary, plan: Plan, *, verbose: bool) -> Iterator[Remark]:
    """What was found; with `verbose` also the doubts, those of several edges in one."""
    yield from summary.findings
    yield from plan.remarks
    for remark in dict.fromkeys(plan.doubts.values()) if verbose else ():
        edges = ", ".join(edge for edge, said in plan.doubts.items() if said == remark)
        text = f"not for the model as it is: {edges} ({remark.text})"
        yield Remark(remark.kind, remark.code, text, "asked again once the model is prepared")
    titles = {step.edge.id: step.title for route in plan.routes for step in route}
    for edge, remark in plan.history.items():
        text = f"{edge if verbose else titles[edge]} went wrong on this model before: {shortened(remark.text)}"
        yield Remark(remark.kind, remark.code, text, "its routes come last; --no-cache forgets")


def show_model(opened: Opened, execution: Execution | None, *, as_json: bool, layers: bool, lack: str = "") -> None:
    """Show what a model is; with `layers` its operators, and how it is executed, or why that is not known."""
    summary = opened.summary
    if as_json:
        executed = {"execution": execution, "not_executed": lack} if layers else {}
        print_json({"artifact": opened.artifact, "summary": summary} | executed)
        return
    console = out()
    console.print(f"[bold]{escape(opened.artifact.path)}[/]  {summary.state}  sha256 {opened.artifact.sha256[:16]}")
    console.print(_signature_table(summary.signature))
    for name, text in _model_facts(opened):
        console.print(f"[bold]{name:<10}[/] {escape(text)}")
    for finding in summary.findings:
        console.print(f"[yellow]{escape(finding.code)}[/] {escape(sentence(finding))}")
    if layers:
        console.print(_layers_table(summary))
    if execution:
        console.print()
        show_execution(console, execution)
    elif lack:
        console.print(f"[yellow]not executed[/] {escape(lack)}")


def _model_facts(opened: Opened) -> Iterator[tuple[str, str]]:
    summary = opened.summary
    operators = sorted(summary.operators.items(), key=lambda item: (-item[1], item[0]))
    yield "operators", ", ".join(f"{count} {name}" for name, count in operators)
    yield "size", size_words(opened.artifact.size_bytes)
    if summary.parameters is not None:
        yield "parameters", f"{summary.parameters:,}"
    if summary.versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    if summary.custom_operators:
        yield "custom", ", ".join(summary.custom_operators)


def _signature_table(signature: Signature) -> Table:
    table = plain_table("", "name", "dtype", "shape", "scale, zero point")
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            quant = f"{spec.quant.scale[0]:.6g}, {spec.quant.zero_point[0]}" if spec.quant else ""
            table.add_row(kind, escape(spec.name), spec.dtype.value, "x".join(map(str, spec.shape)) or "scalar", quant)
    return table


def _layers_table(summary: ModelSummary) -> Table:
    table = plain_table("", "operator", "precision", "name")
    for number, layer in enumerate(summary.layers):
        table.add_row(str(number), layer.operator, layer.precision, escape(layer.name))
    return table


def show_plugins(registry: Registry, *, as_json: bool, verbose: bool) -> None:
    """Show what is installed and what it offers."""
    if as_json:
        edges = [_edge_row(edge) for edge in registry.edges.values()]
        names = {"formats": list(registry.formats), "runtimes": list(registry.runtimes)}
        print_json({"plugins": registry.plugins, "edges": edges} | names)
        return
    console = out()
    table = plain_table("plugin", "distribution", "version", "state")
    for plugin in registry.plugins:
        state = f"[red]broken: {escape(plugin.error.strip().splitlines()[-1])}[/]" if plugin.error else "[green]ok[/]"
        table.add_row(plugin.name, plugin.distribution, plugin.version, state)
    console.print(table)
    console.print(_edges_table(registry, verbose=verbose))
    console.print(f"formats: {', '.join(registry.formats)}; runtimes: {', '.join(registry.runtimes)}")
    for plugin in registry.broken if verbose else ():
        console.print(escape(plugin.error))


def _edge_row(edge: Edge) -> dict[str, object]:
    """An edge as data: all but its code."""
    fields = {
        name: getattr(edge, name) for name in edge.__struct_fields__ if name not in {"allows", "check", "convert"}
    }
    return fields | {"toolchain": edge.toolchain.name if edge.toolchain else ""}


def _edges_table(registry: Registry, *, verbose: bool) -> Table:
    table = plain_table("edge", "from", "to", "engine", "needs", *(["carries out"] if verbose else []))
    for edge in registry.edges.values():
        source = ", ".join(f"{_form(offer)}/{_words(offer.numerics)}" for offer in edge.accepts)
        target = f"{_form(edge.gives)}/{_words(edge.gives.numerics)}"
        calibration = "calibration" if edge.needs_calibration else ""
        needs = calibration or (edge.toolchain.name if edge.toolchain else "")
        table.add_row(
            edge.id, source, target, escape(edge.title), needs, *([", ".join(edge.honours)] if verbose else [])
        )
    return table


def _form(end: Accepts | Gives) -> str:
    return end.format + (f"+{end.form}" if end.form else "")


def _words(numerics: tuple[Numerics, ...] | str) -> str:
    """`fp32`, `fp16|bf16`, `any`, `keep`."""
    return numerics if isinstance(numerics, str) else "|".join(numerics)


def show_lint(plugin: str, findings: list[Remark], *, as_json: bool) -> None:
    """Show what is wrong with a plugin, for its author."""
    if as_json:
        print_json({"plugin": plugin, "findings": findings})
        return
    for finding in findings:
        out().print(f"[red]✗[/] {escape(finding.code)}: {escape(finding.text)}\n  mend: {escape(finding.hint)}")
    if not findings:
        out().print(f"[green]✓[/] {escape(plugin)}: nothing to mend")


def show_doctor(registry: Registry, *, as_json: bool) -> bool:
    """Show problems; returns whether there are none."""
    problems, lacks = list(_problems(registry)), list(_lacks(registry))
    if as_json:
        lists = {
            name: [{"what": what, "mend": mend} for what, mend in items]
            for name, items in (("problems", problems), ("lacks", lacks))
        }
        print_json(lists | {"cache": str(cache_root())})
        return not problems
    console = out()
    for what, mend in problems:
        console.print(f"[red]✗[/] {escape(what)}\n  mend: {escape(mend)}")
    for what, mend in lacks:
        console.print(f"[yellow]·[/] {escape(what)}\n  to have it: {escape(mend)}")
    console.print(f"{len(registry.plugins)} plugins, {len(registry.edges)} edges; cache: {escape(str(cache_root()))}")
    if not problems:
        console.print("[green]✓[/] nothing to mend")
    return not problems


def _problems(registry: Registry) -> Iterator[tuple[str, str]]:
    if not registry.plugins:
        yield "no plugin is installed", "pip install hub-pytorch hub-keras hub-onnxruntime hub-tflite"
    for plugin in registry.broken:
        yield (
            f"{plugin.name} does not load: {plugin.error.strip().splitlines()[-1]}",
            plugin.mend,
        )
    asked = {f"the reader of {name}": reader.requires for name, reader in registry.formats.items()}
    asked |= {f"runtime {name}": runtime.requires for name, runtime in registry.runtimes.items() if not runtime.device}
    for who, requires in asked.items():
        if lines := missing_requirements(requires):
            yield f"{who} misses {', '.join(lines)}", f"pip install {' '.join(map(repr, lines))}"
    for edge, missing in _incomplete(registry):
        if not edge.optional:
            yield f"edge {edge.id} misses {', '.join(missing)}", f"pip install {' '.join(repr(m) for m in missing)}"


def _lacks(registry: Registry) -> Iterator[tuple[str, str]]:
    """What not every machine has, and is not here: devices, and tools that a plugin does well without."""
    for runtime in (item for item in registry.runtimes.values() if item.device):
        here = registry.device_here(runtime.device)
        if not here:
            yield f"{runtime.name} builds for {runtime.device} and runs nothing here: {here.reason}", here.hint
    for edge, missing in _incomplete(registry):
        if edge.optional:
            yield (
                f"edge {edge.id} is left out: {', '.join(missing)} is not here",
                f"pip install {' '.join(map(repr, missing))}",
            )


def _incomplete(registry: Registry) -> Iterator[tuple[Edge, list[str]]]:
    for edge in registry.edges.values():
        missing = [] if edge.toolchain else missing_requirements(edge.requires)
        if missing:
            yield edge, missing


def save_outputs(outputs: list[Feeds], path: Path, *, as_json: bool) -> None:
    """Write outputs, stacked along a new first axis, and say what they are."""
    import numpy as np

    stacked = {name: np.stack([sample[name] for sample in outputs]) for name in outputs[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # a path would get the suffix .npz without being asked
        np.savez(file, allow_pickle=False, **stacked)
    facts = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in stacked.items()}
    if as_json:
        print_json({"output": str(path), "samples": len(outputs), "arrays": facts})
        return
    for name, fact in facts.items():
        out().print(f"{escape(name)}: {fact['dtype']} {fact['shape']}")
    out().print(f"written [green]{escape(str(path))}[/] ({len(outputs)} samples)")


def plain_table(*columns: str) -> Table:
    """A table without lines, whose cells are folded and never cut."""
    table = Table(box=None, header_style="bold", caption_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def verdict(passed: bool) -> str:
    """`pass` or `fail`, coloured."""
    return "[green]pass[/]" if passed else "[red]fail[/]"


def size_words(count: int) -> str:
    """`24.6 KiB`: bytes in binary units."""
    number = float(count)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:  # noqa: PLR2004 binary prefix
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"
