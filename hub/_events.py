"""Who is told how a conversion goes."""

from typing import Protocol

from hub._routing import Plan
from hub.spec import FailedAttempt, ModelSummary, Remark, StepRecord


class Events(Protocol):
    """Is told how a conversion goes."""

    def started(self, what: str) -> None:
        """A piece of work began."""

    def planned(self, summary: ModelSummary, plan: Plan) -> None:
        """The model is read and the routes are known; nothing slow has begun."""

    def finished(self, record: StepRecord) -> None:
        """An edge ended, well or with a parity that fails."""

    def noted(self, remark: Remark) -> None:
        """There is something to tell the user."""

    def failed(self, attempt: FailedAttempt) -> None:
        """A route was given up."""


class Silent:
    """Tells nobody."""

    def started(self, what: str) -> None:
        """Do nothing."""

    def planned(self, summary: ModelSummary, plan: Plan) -> None:
        """Do nothing."""

    def finished(self, record: StepRecord) -> None:
        """Do nothing."""

    def noted(self, remark: Remark) -> None:
        """Do nothing."""

    def failed(self, attempt: FailedAttempt) -> None:
        """Do nothing."""
