"""A report as one HTML page: no scripts, no other files, light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from zoo.cli._show import human_bytes, shape_text
from zoo.examine.summary import KINDS, Measured, Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #6b7280; --line: #d8dde5; --paper: #fff; --box: #f6f7f9;
  --c0: #3b6fb6; --c1: #d97a2b; --c2: #3f9457; --c3: #a0499c; --c4: #8b93a1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa3b2; --line: #343b48; --paper: #14181f;
  --box: #1d232d; --c0: #7fa8e0; --c1: #f0a262; --c2: #79c48f; --c3: #cf8bcb; --c4: #7c8494; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .bad { color: #c62828; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .18rem .8rem .18rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } .n { text-align: right; }
code { font-size: .85em; overflow-wrap: anywhere; } svg { display: block; max-width: 100%; height: auto; }
.chart { min-width: 36rem; } .keys span { white-space: nowrap; display: inline-block; margin-right: 1em; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; }
.card { background: var(--box); border-radius: .4rem; padding: .5rem .6rem; font-size: .8rem; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: .15em; margin-right: .35em !important; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 2rem; }
text { fill: var(--soft); font-size: 11px; }
"""


def page(report: Report) -> str:
    """Write the whole page. Everything that comes from the file is escaped."""
    title = escape(str(report.path))
    parts = [
        f"<h1>{title}</h1>",
        f"<p class=soft>{escape(report.format)}, {sum(m.tensor.size for m in report.parameters.values()):,} values in "
        f"{len(report.parameters)} tensors, {human_bytes(report.nbytes)}</p>",
        f"<p class=bad>{escape(report.problem)}</p>" if report.problem else "",
        '<div class="two"><div><h2>Config</h2>',
        _table([("field", "value")], [(name, str(value)) for name, value in report.config.to_dict().items()]),
        "</div><div><h2>Origin</h2>",
        _table([("what", "value")], _facts(report.facts)),
        "</div></div>",
        "<h2>Where the bytes are</h2>",
        _sizes(report),
        "<h2>Norm of each layer's matrices</h2>",
        '<p class="soft">Root of the mean square of a matrix\'s values.</p>',
        _norms(report),
        "<h2>Values of each layer's matrices</h2>",
        '<p class="soft">The mean in the middle, four standard deviations to each side; roots of the counts.</p>',
        _histograms(report),
        "<h2>Tensors</h2>",
        _tensors(report),
        f"<h2>From {escape(report.format)}'s names to zoo's</h2>",
        _table([("in the file", "axes, read from left to right", "in zoo")], report.mapping),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(filter(None, parts)) + "\n</body></html>\n"
    )


def _table(header: Sequence[Sequence[str]], rows: Iterable[Sequence[str]], numbers: int = 99) -> str:
    """A table whose columns from `numbers` on are aligned to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        inside = (f"<{tag}{' class=n' if i >= numbers else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(inside)}</tr>"

    body = [*(line(cells, "th") for cells in header), *(line(cells, "td") for cells in rows)]
    return f'<div class="wide"><table>{"".join(body)}</table></div>'


def _facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else [(name, value)]
        for key, item in inner:
            text = item if isinstance(item, str) else json.dumps(item)
            rows.append((str(key), text if len(text) <= 160 else f"{text[:157]}..."))
    return [(key, text) for key, text in rows if text not in ("", "[]", "{}")]


def _groups(report: Report) -> dict[str, int]:
    """Bytes by part of the model."""
    groups = dict.fromkeys(("embeddings", "attention", "MLP", "norms", "head", "other"), 0)
    for name, each in report.parameters.items():
        part = (
            "embeddings" if "_emb." in name
            else "attention" if ".attn." in name
            else "MLP" if ".mlp." in name
            else "norms" if "norm" in name
            else "head" if name.startswith("head.")
            else "other"
        )  # fmt: skip
        groups[part] += each.tensor.nbytes
    return {name: nbytes for name, nbytes in groups.items() if nbytes}


def _sizes(report: Report) -> str:
    groups, x, bars, keys = _groups(report), 0.0, [], []
    for i, (name, nbytes) in enumerate(groups.items()):
        share = nbytes / report.nbytes
        bars.append(f'<rect x="{x:.2f}" y="0" width="{1000 * share:.2f}" height="26" fill="var(--c{i % 5})"/>')
        words = f"{name} {human_bytes(nbytes)} ({share:.1%})"
        keys.append(f'<span><i class="key" style="background:var(--c{i % 5})"></i>{words}</span>')
        x += 1000 * share
    svg = f'<svg viewBox="0 0 1000 26" role="img" aria-label="bytes by part">{"".join(bars)}</svg>'
    return f'{svg}<p class="keys">{"".join(keys)}</p>'


def _norms(report: Report) -> str:
    """Lines over the layers, one for each kind of matrix."""
    curves = {kind: [each.rms for each in report.layers(kind)] for kind in KINDS}
    top = max((value for curve in curves.values() for value in curve), default=0.0)
    n = max(map(len, curves.values()), default=0)
    if not n or not top:
        return '<p class="soft">There is nothing to draw.</p>'
    lines, keys = [], []
    for i, (kind, curve) in enumerate(curves.items()):
        points = [(50 + 930 * (j / max(1, n - 1)), 210 - 195 * value / top) for j, value in enumerate(curve)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="var(--c{i})" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--c{i})"/>' for x, y in points]
        keys.append(f'<span><i class="key" style="background:var(--c{i})"></i>{kind.removesuffix(".weight")}</span>')
    marks = [
        f'<text x="44" y="{214 - 195 * part:.0f}" text-anchor="end">{top * part:.2g}</text>' for part in (0, 0.5, 1)
    ]
    grid = [
        f'<line x1="50" x2="980" y1="{210 - 195 * part:.0f}" y2="{210 - 195 * part:.0f}" stroke="var(--line)"/>'
        for part in (0, 0.5, 1)
    ]
    step = max(1, n // 12)
    marks += [
        f'<text x="{50 + 930 * (j / max(1, n - 1)):.0f}" y="228" text-anchor="middle">{j}</text>'
        for j in range(0, n, step)
    ]
    body = "".join([*grid, *lines, *marks])
    svg = f'<svg class="chart" viewBox="0 0 1000 235" role="img" aria-label="norms by layer">{body}</svg>'
    return f'<p class="keys">{"".join(keys)}</p><div class="wide">{svg}</div>'


def _histograms(report: Report) -> str:
    cards = []
    if embedding := report.parameters.get("tok_emb.weight"):
        cards.append(_card("tok_emb", embedding))
    n = max((len(report.layers(kind)) for kind in KINDS), default=0)
    for i in range(n):
        for kind in KINDS:
            name = f"blocks.{i}.{kind}"
            if each := report.parameters.get(name):
                cards.append(_card(name.removesuffix(".weight"), each))
    return f'<div class="grid">{"".join(cards)}</div>'


def _card(name: str, each: Measured) -> str:
    top = max(each.bins, default=0) or 1
    # Roots, so that the tails can be seen beside the middle.
    heights = [50 * math.sqrt(count / top) for count in each.bins]
    bars = "".join(
        f'<rect x="{i * 5}" y="{50 - height:.1f}" width="4" height="{height:.1f}" fill="var(--c0)"/>'
        for i, height in enumerate(heights)
    )
    largest = max(abs(each.numbers.min), abs(each.numbers.max))
    svg = f'<svg viewBox="0 0 205 50" role="img" aria-label="histogram of {escape(name)}">{bars}</svg>'
    words = f'<span class="soft">std {each.numbers.std:.3g}, largest {largest:.3g}</span>'
    return f'<div class="card">{escape(name)}{svg}{words}</div>'


def _tensors(report: Report) -> str:
    header = ("tensor", "dtype", "shape", "bytes", "mean", "std", "min", "max", "norm", "NaN", "inf")
    rows = []
    for name, each in report.parameters.items():
        numbers = each.numbers
        values = (numbers.mean, numbers.std, numbers.min, numbers.max, numbers.norm)
        rows.append(
            (
                name,
                str(each.tensor.dtype),
                shape_text(each.tensor.shape),
                human_bytes(each.tensor.nbytes),
                *(f"{value:.4g}" for value in values),
                f"{numbers.nan:,}",
                f"{numbers.inf:,}",
            )
        )
    return _table([header], rows, numbers=3)
