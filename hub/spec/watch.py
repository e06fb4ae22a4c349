"""How a step that searches for long tells how it goes, and hears that it is to end with the best so far."""

from pathlib import Path

import msgspec

_PROGRESS, _END = "progress.json", "end"


class StepProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a step goes.

    Attributes:
        text: In words: `trial 4, 11 layers in float: 15.2 dB`.
        has_result: Whether it can end now, with a result that its search has found already.
    """

    text: str
    has_result: bool = False


class StepWatch:
    """Tells whoever waits for a step how it goes, and hears whether it is to end.

    A step that never looks is ended at once, with nothing.

    Args:
        folder: `ConvertJob.watch`; empty where nobody waits.

    Attributes:
        has_result: Set it where the step has something to end with.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None
        self.has_result = False

    def tell(self, text: str) -> None:
        """Says how it goes."""
        if self._folder and self._folder.is_dir():
            partial = self._folder / f"{_PROGRESS}.partial"
            partial.write_bytes(msgspec.json.encode(StepProgress(text=text, has_result=self.has_result)))
            partial.rename(self._folder / _PROGRESS)

    @property
    def is_ending(self) -> bool:
        """Whether the step is to end now, with the best that it has; always false while it has none."""
        return self.has_result and self._folder is not None and is_asked_to_end(self._folder)


def progress_of(folder: Path) -> StepProgress | None:
    """What a step told last; None where it told nothing."""
    file = folder / _PROGRESS
    return msgspec.json.decode(file.read_bytes(), type=StepProgress) if file.exists() else None


def ask_to_end(folder: Path) -> None:
    """Asks a step to end with the best that it has."""
    (folder / _END).touch()


def is_asked_to_end(folder: Path) -> bool:
    """Whether it was asked."""
    return (folder / _END).exists()
