"""The command line: parse, call, render. No logic, and no import that `hub --help` does not need."""

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COMMANDS = {
    "convert": ("hub.cli.convert", "Convert a model, prove that the result computes the same, write it."),
    "plan": ("hub.cli.convert", "Show the routes from a model to a target, and what was left out and why."),
    "inspect": ("hub.cli.models", "Show what a model is: inputs, outputs, operators, precision, findings."),
    "verify": ("hub.cli.models", "Measure a result against its source."),
    "repair": ("hub.cli.repair", "Judge a result against its source, and make a right one where it is wrong."),
    "diff": ("hub.cli.diff", "Compare two models layer by layer: where they differ first, most, and why."),
    "reduce": (
        "hub.cli.reduce",
        "Cut out the smallest part of a result that fails by itself, with a script to show it.",
    ),
    "run": ("hub.cli.models", "Run a model on data and save its outputs."),
    "plugins": ("hub.cli.system", "List plugins, formats, edges and runtimes, the broken ones too."),
    "doctor": ("hub.cli.system", "Check the installation and say how to mend it."),
    "completion": ("hub.cli.system", "Print the completion script of a shell."),
}


class _Lazy(click.Group):
    """Imports a command's module when the command is asked for; a plugin's commands are entry points, read as text."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name hub's own commands, then those of plugins."""
        del ctx
        return [*COMMANDS, *_offered()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return _loaded(cmd_name)
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the arguments; a misspelt one gets a suggestion."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from hub._request import did_you_mean

            raise click.UsageError(f"no command {args[0]!r}; {did_you_mean(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that help imports none of them."""
        del ctx
        extra = [
            (name, f"From {entry.dist.name if entry.dist else entry.module}.") for name, entry in _offered().items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()] + extra)


def _offered() -> "dict[str, EntryPoint]":
    """Commands of plugins, by name. No plugin is imported: help must not take what they take."""
    import importlib.metadata

    found = importlib.metadata.entry_points(group="hub.commands.v1")
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name) if entry.name not in COMMANDS}


def _loaded(name: str) -> click.Command | None:
    entry = _offered().get(name)
    if entry is None:
        return None
    try:
        command = entry.load()
    except Exception as error:  # the plugin boundary: its command may raise anything at import
        from hub.spec import PluginBroken

        message = f"the command {name} does not load from {entry.value}: {type(error).__name__}: {error}"
        raise PluginBroken(message, hint="update the plugin, or uninstall it: `hub plugins`") from error
    if not isinstance(command, click.Command):
        from hub.spec import PluginBroken

        raise PluginBroken(
            f"{entry.value} is no click command", hint="update the plugin, or uninstall it: `hub plugins`"
        )
    return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hub-convert", prog_name="hub")
def cli() -> None:
    """Convert a trained model to where it will run, and prove that it still computes the same thing.

    hub convert model.keras --to tflite --int8 --calibration data.npz
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error becomes a message, a hint and an exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        status = cli.main(args=words, prog_name="hub", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        from hub.cli.report import report_interrupt

        sys.exit(report_interrupt(as_json=as_json))
    except Exception as error:  # noqa: BLE001 the process boundary: nothing leaves as a bare traceback
        from hub.cli.report import report_error

        sys.exit(report_error(error, as_json=as_json, verbose="-v" in words))
    sys.exit(status if isinstance(status, int) else 0)
