"""hub's own version."""

from importlib.metadata import version

VERSION = version("hub-convert")
