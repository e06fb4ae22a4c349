"""The command `hub`, also as `python -m hub`."""

import sys


def main() -> None:
    """Run the command line; what it imports takes long enough to be interrupted too."""
    try:
        from hub.cli import main as command
    except KeyboardInterrupt:
        from hub.cli.report import report_interrupt

        sys.exit(report_interrupt(as_json="--json" in sys.argv))
    command()


if __name__ == "__main__":
    main()
