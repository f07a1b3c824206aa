"""Convert the model `stories` through every format that zoo reads and writes, each output being the next source,
hash all files and write docs/images/hash.svg.

python tools/hash_svg.py
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import svg

from zoo.formats.registry import get_format, usable_formats

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "hash.svg"
WIDTH, HEIGHT = 900, 460


def run(*arguments: str | Path) -> str:
    """Return what a command of zoo prints."""
    command = [sys.executable, "-m", "zoo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def chain(directory: Path) -> list[tuple[str, str]]:
    """Convert `stories` from one format to the next and back to zoo's.

    Returns:
        (format, content hash as printed by `zoo hash`) of every file, in the order of the conversions.
    """
    names = [found.name for found in usable_formats() if found.reads and found.writes]
    source, files = "stories", []
    for name in [*names[1:], names[0]]:
        target = directory / (name + "".join(get_format(name).suffixes[:1]))
        run("convert", "--source", source, "--to", name, "--out", target, "--quiet")
        source = str(target)
        files.append((name, source))
    return [(name, run("hash", path).split()[0]) for name, path in files]


def draw(files: list[tuple[str, str]]) -> str:
    """Return the picture: the formats in a ring, in the order of the conversions, their hash in the middle."""
    (content_hash,) = {found for _, found in files}
    x0, y0, rx, ry = WIDTH / 2, HEIGHT / 2, 350, 180
    places = []
    for i in range(len(files)):
        angle = 2 * math.pi * i / len(files) - math.pi / 2
        places.append((x0 + rx * math.cos(angle), y0 + ry * math.sin(angle)))
    parts = [svg.line(*here, *there) for here, there in zip(places, [*places[1:], places[0]], strict=True)]
    for (name, _), (x, y) in zip(files, places, strict=True):
        parts.append(svg.box(x - 62, y - 17, 124, 34, svg.MUTED, radius=8))
        parts.append(svg.text(x, y + 5, name, style='text-anchor="middle" font-weight="600"'))
    middle = 'text-anchor="middle"'
    mono = f'{middle} font-family="ui-monospace, Menlo, Consolas, monospace"'
    parts += [
        svg.text(x0, y0 - 48, f"{len(files)} conversions in a ring, one content hash", size=20, style=middle),
        svg.text(x0, y0 - 8, content_hash[:32], size=18, fill=svg.ACCENT, style=mono),
        svg.text(x0, y0 + 18, content_hash[32:], size=18, fill=svg.ACCENT, style=mono),
        svg.text(x0, y0 + 58, "zoo hash of every file, model “stories”", fill=svg.PALE, style=middle),
    ]
    return svg.card(WIDTH, HEIGHT, f"One content hash through {len(files)} formats", parts)


def main() -> None:
    """Run from the command line."""
    with tempfile.TemporaryDirectory() as directory:
        picture = draw(chain(Path(directory)))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
