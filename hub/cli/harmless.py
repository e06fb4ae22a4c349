"""What others wrote, on its way to a terminal: nothing in it acts there, and none of it fills the screen.

Titles, remarks, tool output and tensor names come from plugins and from models. `--json` has them whole, escaped.
"""

import re

MOST = 8000
"""Characters of one text that are shown."""
_ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed: escape sequences begin with one
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f"  # reorder or hide text
    "\ud800-\udfff]"  # halves of characters, which no terminal's encoding has
)


def harmless(text: str) -> str:
    """The text with a mark for every character that would act on a terminal; as many characters as before."""
    return _ACTS.sub("\N{REPLACEMENT CHARACTER}", text)


def more(text: str) -> str:
    """What to say where a text is cut; empty where it is not."""
    return f"… ({len(text) - MOST} characters more: --json has them)" if len(text) > MOST else ""


def shown(text: str) -> str:
    """The text as a terminal gets it."""
    return harmless(text[:MOST]) + more(text)
