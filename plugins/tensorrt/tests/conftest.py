"""The command in this process, as the core's tests have it."""

from tests.conftest import cache, hub

__all__ = ["cache", "hub"]
