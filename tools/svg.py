"""SVG elements for the README's pictures, on a dark card that is readable on light and dark pages."""

from __future__ import annotations

from html import escape

BACKGROUND, INK, PALE, ACCENT, MUTED = "#1e2127", "#f0f2f5", "#a9b1bd", "#5ab9a0", "#5b6573"


def card(width: int, height: int, title: str, elements: list[str]) -> str:
    """Return a picture: the elements on a dark card."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
        f"<title>{escape(title)}</title>\n"
    )
    return "\n".join([head + box(0, 0, width, height, BACKGROUND, radius=10), *elements, "</svg>\n"])


def box(x: float, y: float, width: float, height: float, fill: str, *, radius: int = 4) -> str:
    """Return a filled rectangle with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{fill}"/>'


def text(x: float, y: float, content: str, *, size: int = 15, fill: str = INK, style: str = "") -> str:
    """Return a line of text; `style` has further attributes, such as text-anchor."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" {style}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a thin line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{MUTED}" stroke-width="1.5"/>'
