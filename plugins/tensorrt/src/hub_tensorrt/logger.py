"""The library's logger: everything is kept, errors apart."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol


class Log(Protocol):
    """Messages of a library by severity, in order."""

    errors: list[str]
    every: list[str]


def make_log(module: ModuleType) -> Log:
    """A logger for a library's objects, which takes all that it says, verbose messages too."""

    class Kept(module.ILogger):  # type: ignore[misc, name-defined]  # the class is the module's own
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.every: list[str] = []

        def log(self, severity: object, message: str) -> None:
            self.every.append(message)
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    log: Log = Kept()
    return log
