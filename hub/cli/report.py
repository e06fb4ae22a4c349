"""Errors as text or JSON."""

import traceback
from typing import TYPE_CHECKING, Any

import click

from hub.cli.harmless import harmless, shown

if TYPE_CHECKING:
    from hub.spec import HubError


def report_error(error: Exception, *, as_json: bool, verbose: bool) -> int:
    """Print an error; returns the exit status."""
    if isinstance(error, click.ClickException):
        return _show(_click_fields(error), error.exit_code, as_json=as_json)
    from hub.spec import HubError

    if isinstance(error, HubError):
        fields: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint, "log": error.log}
        status = _show(fields | error.details, error.exit_status, as_json=as_json, trace=error if verbose else None)
        if verbose and not as_json:
            _show_details(error)
        return status
    fields = {
        "code": "internal",
        "message": f"a defect in hub: {type(error).__name__}: {error}",
        "hint": "please report it with the lines above",
        "log": "",
    }
    return _show(fields, 70, as_json=as_json, trace=error)


def _click_fields(error: click.ClickException) -> dict[str, str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "hub"
    return {"code": "usage", "message": error.format_message(), "hint": f"{path} --help", "log": ""}


def _show(fields: dict[str, Any], status: int, *, as_json: bool, trace: Exception | None = None) -> int:
    if trace is not None:
        click.echo(harmless("".join(traceback.format_exception(trace))), err=True, nl=False)
    if as_json:
        click.echo(encode_json({"error": fields | {"exit_status": status}}))
        return status
    click.echo(f"{click.style('error', fg='red', bold=True)}[{fields['code']}]: {shown(fields['message'])}", err=True)
    for name in ("hint", "log"):
        if fields[name]:
            click.echo(f"{click.style(name, fg='cyan', bold=True)}: {shown(fields[name])}", err=True)
    return status


def encode_json(value: object, indent: int = 0) -> str:
    """One JSON document. Halves of characters, which UTF-8 does not have, are escaped like everything else then."""
    import msgspec

    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        import json

        return json.dumps(msgspec.to_builtins(value), indent=indent or None)
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def _show_details(error: "HubError") -> None:
    """Print what stood in the way of every edge, and what became of every route that was tried."""
    details: dict[str, Any] = error.details
    for edge, remark in details.get("left_out", {}).items():
        click.echo(f"{click.style('left out', dim=True)}: {shown(f'{edge}: {remark.text}')}", err=True)
    for attempt in details.get("attempts", ()):
        click.echo(f"{click.style('gave up', dim=True)}: {shown(f'{attempt.edge}: {attempt.message}')}", err=True)


def report_interrupt(*, as_json: bool) -> int:
    """Say what an interrupt leaves behind; returns the shell's status for SIGINT."""
    hint = "run it again: finished steps are reused"
    fields = {"code": "interrupted", "message": "interrupted; nothing was written", "hint": hint, "log": ""}
    return _show(fields, 130, as_json=as_json)
