"""`hub plugins`, `hub doctor` and `hub completion`."""

from typing import Any

import click

from hub.cli.options import verbosity


@click.command("plugins")
@click.option(
    "--check", metavar="NAME", help="For authors: say what is wrong with a plugin; exit status 4 if anything."
)
@verbosity
def plugins_command(**values: Any) -> None:
    """List plugins, formats, edges and runtimes; the broken plugins with their traceback."""
    from hub._plugins import Registry
    from hub.cli.render import show_lint, show_plugins
    from hub.spec import SetupError

    if values["check"]:
        from hub._lint import lint

        findings = lint(Registry(), values["check"])
        show_lint(values["check"], findings, as_json=values["as_json"])
        raise click.exceptions.Exit(SetupError.exit_status if findings else 0)
    show_plugins(Registry(), as_json=values["as_json"], verbose=values["verbose"])


@click.command("doctor")
@verbosity
def doctor_command(**values: Any) -> None:
    """Check the installation; exit status 4 when something must be mended."""
    from hub._plugins import Registry
    from hub.cli.render import show_doctor
    from hub.spec import SetupError

    if not show_doctor(Registry(), as_json=values["as_json"]):
        raise click.exceptions.Exit(SetupError.exit_status)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell: eval "$(hub completion bash)"."""
    from click.shell_completion import get_completion_class

    from hub.cli import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click has no completion for {shell}")
    click.echo(kind(cli, {}, "hub", "_HUB_COMPLETE").source())
