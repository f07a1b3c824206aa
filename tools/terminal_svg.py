"""Run zoo's commands and write what the terminal shows to docs/images/terminal.svg.

python tools/terminal_svg.py
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "terminal.svg"
COLUMNS = 96
COMMANDS = (
    'zoo generate --model stories --seed 1 --max-new-tokens 60 "Every effort moves you"',
    "zoo convert stories stories.gguf --to gguf",
    "zoo convert stories.gguf stories-hf --to huggingface",
    "zoo hash stories stories.gguf stories-hf",
    "zoo diff stories stories-hf",
)


def output(command: str, directory: Path) -> str:
    """Return what a command prints on both streams; it runs in `directory` and must succeed."""
    zoo = Path(sys.executable).parent / "zoo"
    shell = command.replace("zoo", str(zoo), 1)
    done = subprocess.run(
        shell, shell=True, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout.rstrip("\n")


def main() -> None:
    """Run from the command line."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), legacy_windows=False)
    with tempfile.TemporaryDirectory() as directory:
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            console.print(Text(output(command, Path(directory))), "")
    drawn = console.export_svg(title="zoo", unique_id="zoo")
    # A picture must not fetch fonts from another server: its own @font-face rules go, the reader's fonts remain.
    drawn = re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
