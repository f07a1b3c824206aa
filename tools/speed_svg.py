"""Draw docs/images/speed.svg from the first table of docs/benchmarks.md#generation.

python tools/speed_svg.py           # write
python tools/speed_svg.py --check   # exit 1 if the picture does not show the numbers of the page
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import svg

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = DOCS / "images" / "speed.svg"
PRECISIONS = ("float32", "bfloat16", "int8", "int4")
MODEL, COLUMN = "124M", "decode 256"
PROCESSOR = "2 cores of an AMD EPYC (Zen 4)"


def speeds(page: str) -> list[tuple[str, str, float]]:
    """Return (precision, contender, tokens per second) of the rows to draw, as the page has them."""
    section = page[page.index("## Generation") :]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section[: section.index("\n355M")].splitlines()
        if line.startswith("|")
    ]
    column = rows[0].index(COLUMN)
    return [(row[0], row[1], float(row[column].split()[0])) for row in rows[2:] if row[0] in PRECISIONS]


def draw(rows: list[tuple[str, str, float]]) -> str:
    """Return the chart: a bar for each row, in groups of one precision."""
    longest = max(value for _, _, value in rows)
    parts = [
        svg.text(24, 36, f"Tokens per second: GPT-2 {MODEL}, decoding after 256 tokens", size=20),
        svg.text(24, 60, f"{PROCESSOR}; longer is better; docs/benchmarks.md", fill=svg.PALE),
    ]
    y, before = 72, ""
    for precision, contender, value in rows:
        if precision != before:
            y += 14
            parts.append(svg.text(24, y + 16, precision, style='font-weight="600"'))
            before = precision
        own = contender == "zoo"
        length = 480 * value / longest
        parts.append(svg.text(240, y + 16, contender, style='text-anchor="end"'))
        parts.append(svg.box(250, y + 2, length, 19, svg.ACCENT if own else svg.MUTED))
        parts.append(svg.text(258 + length, y + 17, f"{value:g}"))
        y += 25
    return svg.card(800, y + 18, "Speed of generation", parts)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    if PROCESSOR.split(" of an ")[1] not in " ".join(page.split()):
        sys.exit(f"docs/benchmarks.md does not name the processor: {PROCESSOR}")
    picture = draw(speeds(page))
    if check and (not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture):
        sys.exit("stale: speed.svg; run `python tools/speed_svg.py`")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
