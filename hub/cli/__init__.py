"""The command line: parse, call, render. No logic, and no import that `hub --help` does not need."""

import importlib
import sys
from collections.abc import Sequence

import click

COMMANDS = {
    "convert": ("hub.cli.convert", "Convert a model, prove that the result computes the same, write it."),
    "plan": ("hub.cli.convert", "Show the routes from a model to a target, and what was left out and why."),
    "inspect": ("hub.cli.models", "Show what a model is: inputs, outputs, operators, precision, findings."),
    "verify": ("hub.cli.models", "Measure a result against its source."),
    "run": ("hub.cli.models", "Run a model on data and save its outputs."),
    "plugins": ("hub.cli.system", "List plugins, formats, edges and runtimes, the broken ones too."),
    "doctor": ("hub.cli.system", "Check the installation and say how to mend it."),
    "completion": ("hub.cli.system", "Print the completion script of a shell."),
}


class _Lazy(click.Group):
    """Imports a command's module when the command is asked for; plugins are loaded for names that hub does not have."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name hub's own commands, then those of plugins."""
        del ctx
        return [*COMMANDS, *sorted(_plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return _plugin_commands().get(cmd_name)
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
        extra = [(name, command.get_short_help_str()) for name, command in sorted(_plugin_commands().items())]
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()] + extra)


def _plugin_commands() -> dict[str, click.Command]:
    from hub._plugins import Registry

    groups = Registry().manager.hook.hub_register_commands()
    return {command.name: command for group in groups for command in group}


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hub-convert", prog_name="hub")
def cli() -> None:
    """Convert a trained model to where it will run, and prove that it still computes the same thing.

    hub convert model.keras --to tflite --int8 --calibration data.npz
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error becomes a message, a hint and an exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    from hub.cli.report import report_error, report_interrupt

    as_json = "--json" in words
    try:
        status = cli.main(args=words, prog_name="hub", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(report_interrupt(as_json=as_json))
    except Exception as error:  # noqa: BLE001 the process boundary: nothing leaves as a bare traceback
        sys.exit(report_error(error, as_json=as_json, verbose="-v" in words))
    sys.exit(status if isinstance(status, int) else 0)
