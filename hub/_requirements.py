"""What plugins say must be installed, and what is."""

import functools
import importlib.metadata
from typing import TYPE_CHECKING

from hub.spec import DependencyMissing

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@functools.cache
def alternatives(line: str) -> "tuple[Requirement, ...]":
    """The requirements of a line, any of which will do: `tensorflow-cpu>=2.19 | tensorflow>=2.19`.

    Raises:
        InvalidRequirement: It does not parse (a ValueError).
    """
    from packaging.requirements import Requirement

    return tuple(Requirement(part.strip()) for part in line.split("|"))


def versions_of(requirements: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the distributions that requirement lines name; empty string for a missing one."""
    found: dict[str, str] = {}
    for line in requirements:
        names = [item.name for item in alternatives(line)]
        found |= {name: version_of(name) for name in names if version_of(name)} or {names[0]: ""}
    return found


@functools.cache
def version_of(name: str) -> str:
    """The installed version of a distribution; empty for a missing one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_met(line: str) -> bool:
    """Whether the environment has what a requirement line asks for."""
    installed = ((item.specifier, version_of(item.name)) for item in alternatives(line))
    return any(version and specifier.contains(version, prereleases=True) for specifier, version in installed)


def missing_requirements(requirements: tuple[str, ...]) -> list[str]:
    """What to install for the requirement lines that the environment does not meet."""
    return [str(alternatives(line)[0]) for line in requirements if not is_met(line)]


def check_installed(who: str, requires: tuple[str, ...]) -> None:
    """Refuse to use what the environment does not have everything for.

    Raises:
        DependencyMissing: Says what is missing.
    """
    missing = missing_requirements(requires)
    if missing:
        hint = f"pip install {' '.join(map(repr, missing))}"
        raise DependencyMissing(f"{who} needs what is not installed: {', '.join(missing)}", hint=hint)
