"""The summary of a conversion: one line, then what needs the user's attention; with `verbose` every step and figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from hub._layer_bounds import layers_words
from hub.cli.executed import decibel_words, result_facts, sentence, shortened
from hub.cli.render import (
    accuracy_words,
    out,
    parity_table,
    plain_table,
    print_json,
    show_evidence,
    show_guilty,
    show_parity,
    size_words,
    verdict,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hub.spec import NotRun, ParityReport, Receipt, Remark, RepairReport, StepRecord

_FEW_NOTES = 8


def show_receipt(receipt: Receipt, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show a finished conversion."""
    if as_json:
        print_json(receipt)
        return
    if quiet:
        return
    console = out()
    console.print(headline(receipt))
    if receipt.not_run:
        _show_not_run(console, receipt.not_run)
    for name, text in _attention(receipt, verbose=verbose):
        console.print(f"{name} {text}")
    for name, text in _facts(receipt, verbose=verbose):
        console.print(f"[bold]{name:<9}[/] {text}")
    if verbose:
        console.print(_steps_table(receipt.steps))
        if receipt.parity:
            console.print(parity_table(receipt.parity))
            show_evidence(console, receipt.parity, verbose=True)
    else:
        console.print(f"[dim]steps, outputs, operators: -v, or {escape(Path(receipt.result.path).name)}.hub.json[/]")


def headline(receipt: Receipt) -> str:
    """Verdict, file, and in a few words the evidence, the size and the speed; in rich's markup."""
    result = receipt.result
    mark = "[bold green]✓ verified[/]" if receipt.parity else "[bold yellow]• built, not run[/]"
    said = [f"{result.state.numerics.value} {result.state.format}", *_evidence_words(receipt), _size_words(receipt)]
    if receipt.speed:
        colour = "green" if receipt.speed.is_told and receipt.speed.speedup >= 1 else "yellow"
        said.append(f"[{colour}]{escape(str(receipt.speed).partition(' (')[0])}[/]")
    return f"{mark} [bold]{escape(result.path)}[/]: {', '.join(said)}"


def _evidence_words(receipt: Receipt) -> Iterator[str]:
    if receipt.parity:
        worst = receipt.parity.worst
        figures = [decibel_words(worst.sqnr_db)]
        top1 = [item.top1 for item in receipt.parity.outputs if item.top1 is not None]
        if top1:
            figures.append(f"top-1 {min(top1):.1%}")
        yield f"{' and '.join(figures)} on {worst.samples} {receipt.parity.inputs} samples"
    for local in (step.local for step in receipt.steps if step.local):
        yield "layers not compared" if local.lack else f"{local.layers} of {local.of} layers"
    if receipt.accuracy:
        yield f"accuracy {accuracy_words(receipt.accuracy).partition(' on ')[0]}"


def _size_words(receipt: Receipt) -> str:
    before, after = receipt.source.size_bytes, receipt.result.size_bytes
    ratio = f"{before / after:.2f}x smaller" if after <= before else f"{after / before:.2f}x larger"
    return f"{size_words(after)} ({ratio if receipt.level == 'run' else 'kernels for a device may be among them'})"


def _attention(receipt: Receipt, *, verbose: bool) -> Iterator[tuple[str, str]]:
    """What the user should look at: what is not as good as it could be first, then what hub did unasked."""
    notes = [remark for remark in receipt.remarks if remark.kind == "note"]
    louder: list[Remark] = [remark for remark in receipt.remarks if remark.kind not in {"note", "finding"}]
    for remark in louder:
        yield f"[bold yellow]{remark.kind:<9}[/]", escape(sentence(remark))
    for item in receipt.contract:
        if item.changes:
            there = item.result or "no longer an " + item.direction
            yield f"[bold yellow]{'changed':<9}[/]", escape(f"{item.source} → {there}: {'; '.join(item.changes)}")
    for attempt in receipt.failed_attempts:
        if not attempt.refused:
            said = f"{attempt.title or attempt.edge}: {shortened(attempt.message)}"
            yield f"[yellow]{'gave up':<9}[/]", escape(said)
    for note in notes if verbose else notes[:_FEW_NOTES]:
        yield f"[yellow]{'note':<9}[/]", escape(sentence(note))
    if len(notes) > _FEW_NOTES and not verbose:
        yield f"[yellow]{'note':<9}[/]", f"and {len(notes) - _FEW_NOTES} more: -v"


def _show_not_run(console: Console, built: NotRun) -> None:
    """What a result is that nobody has run: never "verified", but what was measured in its place, with the figures."""
    console.print("[bold yellow]aot-built[/] built here and NOT run: nothing says yet that it computes what it should")
    console.print(f"[bold]{'why':<9}[/] {escape(built.reason)}")
    if built.parity:
        worst = built.parity.worst
        figures = f"SQNR {decibel_words(worst.sqnr_db)}, cosine {worst.cosine:.5f}, largest error {worst.max_abs:.3g}"
        said = f"what it was built of, {built.proved.state} in {built.runtime}, passed the gate: {figures}"
    else:
        said = f"it was built of the source itself, {built.proved.state}, which ran in {built.runtime}"
    console.print(f"[bold]{'proved':<9}[/] {escape(said)}")
    if built.hint:
        console.print(f"[bold]{'next':<9}[/] {escape(built.hint)}")


def _facts(receipt: Receipt, *, verbose: bool) -> Iterator[tuple[str, str]]:
    yield "inputs", escape(", ".join(map(str, receipt.result.signature.inputs)))
    yield "outputs", escape(", ".join(map(str, receipt.result.signature.outputs)))
    for local in (step.local for step in receipt.steps if step.local):
        if verbose or local.lack or local.failed or local.layers < local.of:
            yield "layers", escape(layers_words(local))
    if verbose:
        yield "size", f"{size_words(receipt.source.size_bytes)} → {size_words(receipt.result.size_bytes)}"
        yield from result_facts(receipt)


def _steps_table(steps: Iterable[StepRecord]) -> Table:
    table = plain_table("step", "result", "time", "peak memory", "SQNR", "cosine", "gate")
    for step in steps:
        worst = step.parity.worst if step.parity else None
        table.add_row(
            escape(step.title),
            str(step.artifact.state),
            "cached" if step.cached else f"{step.seconds:.1f} s",
            size_words(step.peak_memory_bytes),
            decibel_words(worst.sqnr_db) if worst else "",
            f"{worst.cosine:.5f}" if worst else "",
            verdict(step.parity.passed) if step.parity else "[yellow]not run[/]" if step.not_run else "",
        )
    return table


def show_repair(report: RepairReport, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show what was found of a result, and beside it what was made in its place."""
    if as_json:
        print_json(report)
        return
    if quiet:
        return
    console, receipt = out(), report.receipt
    if receipt is None:
        if report.parity:
            show_parity(report.parity, as_json=False, verbose=verbose)
        console.print("[green]✓[/] nothing to repair: nothing was written")
        return
    table = plain_table("", "before", "after")
    for name, before, after in _before_and_after(report, receipt):
        table.add_row(escape(name), escape(before), escape(after))
    console.print(table)
    if report.parity:
        show_guilty(console, report.parity)
    show_receipt(receipt, as_json=False, quiet=False, verbose=verbose)


def _worst(report: ParityReport | None) -> dict[str, float]:
    """Output -> SQNR in dB in its worst kernel set."""
    found: dict[str, float] = {}
    for item in report.outputs if report else ():
        found[item.output] = min(item.sqnr_db, found.get(item.output, item.sqnr_db))
    return found


def _before_and_after(report: RepairReport, receipt: Receipt) -> Iterator[tuple[str, str, str]]:
    before, after = _worst(report.parity), _worst(receipt.parity)
    for name in before | after:
        yield (
            name,
            decibel_words(before[name]) if before else report.broken,
            decibel_words(after[name]) if name in after else "",
        )
    local = next((step.local for step in reversed(receipt.steps) if step.local), None)
    failed = [
        str(one.failed) if one and not one.lack else "not compared"
        for one in (report.parity and report.parity.local, local)
    ]
    yield "guilty layers", failed[0], failed[1]
    yield "precision", report.result.state.numerics.value, receipt.result.state.numerics.value
    kept = [
        "" if item is None else str(len(next((s.recipe.kept_float for s in reversed(item.steps) if s.recipe), ())))
        for item in (report.made, receipt)
    ]
    yield "layers in float", kept[0], kept[1]
    speeds = [str(item.speed) if item and item.speed else "not timed" for item in (report.made, receipt)]
    yield "speed", speeds[0], speeds[1]
