"""What travels along a route: a model, how its reader sees it, and what was done to get there."""

import msgspec

from hub._bindings import Chain
from hub.spec import ConvertOptions, IoBinding, ModelArtifact, ModelSummary, StepRecord


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a route has got to; at the route's start the source itself.

    Attributes:
        artifact: The model.
        summary: What its reader says.
        options: The request's, in this model's terms: a step may have renamed or moved its inputs.
        steps: The edges that made it, as they were run.
        paired: Changes of inputs and outputs that no step declares: of a file that somebody else made.
        runtime: The runtime that the user prefers, where it opens the model's format; empty for the format's own.
    """

    artifact: ModelArtifact
    summary: ModelSummary
    options: ConvertOptions
    steps: tuple[StepRecord, ...] = ()
    paired: tuple[IoBinding, ...] = ()
    runtime: str = ""

    @property
    def chain(self) -> Chain:
        """The declared changes of inputs and outputs, step by step: samples in the source's terms go through these."""
        own = (self.paired,) if self.paired else ()
        return (*(step.bindings for step in self.steps), *own)
