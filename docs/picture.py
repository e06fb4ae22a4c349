"""Draw the README's picture from a real run: `python docs/picture.py`."""

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the demo's command, and save what a terminal would show as SVG."""
    sys.path.insert(0, str(ROOT))
    from dev import DEMO

    command = [str(Path(sys.executable).with_name("hub")), *DEMO.split()]
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "130", "TERM": "xterm-256color", "HUB_PLAIN": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    console = Console(record=True, width=130, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 lives as long as we
    console.print(Text(f"$ hub {DEMO}", style="bold"))
    console.print(Text.from_ansi((done.stdout).replace(str(ROOT), ".").rstrip()))
    target = ROOT / "docs" / "images" / "demo.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(_own_font(console.export_svg(title="hub convert")))


def _own_font(svg: str) -> str:
    """Use the reader's own monospace font: a picture in a repository loads nothing from elsewhere."""
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")


if __name__ == "__main__":
    main()
