"""Plot the speeds of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.plot.figure import make_figure


def plot_speeds(found: dict[str, Any], out: str | Path, *, force: bool = False) -> None:
    """Plot tokens per second of prefill and decode, one bar per contender and precision, into a file.

    Args:
        found: Result of zoo.bench.bench.
        out: A .png, .pdf or .svg file.
        force: Whether to replace an existing file.

    Raises:
        OptionError: The suffix of out is not supported.
        OutputError: out exists or cannot be written.
        MissingPackage: matplotlib is not installed.
    """
    rows, contexts = found["rows"], found["settings"]["contexts"]
    panels = [("prefill", [row["prefill_tokens_per_s"] for row in rows])]
    panels += [(f"decode at context {c}", [row["decode_tokens_per_s"][c] for row in rows]) for c in contexts]
    figure, save = make_figure(out, 3.2 + 3.2 * len(panels), 1.2 + 0.3 * len(rows))
    names = [f"{row['contender']} {row['precision']}" for row in rows]
    colours = ["tab:blue" if row["contender"] == "zoo" else "tab:gray" for row in rows]
    for axes, (title, speeds) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        bars = axes.barh(range(len(rows)), speeds, color=colours)
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlabel("tokens/s")
        axes.set_title(title, fontsize="medium", loc="left")
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    save(force)
