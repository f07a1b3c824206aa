"""Plot norms and histograms of a checkpoint's matrices, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from zoo.examine.summary import KINDS, Report
from zoo.plot.figure import make_figure


def plot_weights(report: Report, out: str | Path, *, force: bool = False) -> None:
    """Plot, for each kind of matrix in a block, its norm per layer and the distribution of its values in each layer.

    Args:
        report: Report of a checkpoint.
        out: A .png, .pdf or .svg file.
        force: Whether to replace an existing file.

    Raises:
        OptionError: The suffix of out is not supported.
        OutputError: out exists or cannot be written.
        MissingPackage: matplotlib is not installed.
    """
    figure, save = make_figure(out, 9.6, 6.4)
    top, bottom = cast("Any", figure.subfigures(2, 1))
    upper: Any = top.subplots()
    lower: Any = bottom.subplots(1, len(KINDS), sharey=True)
    for i, kind in enumerate(KINDS):
        layers = report.layers(kind)
        rms = [each.rms for each in layers]
        upper.plot(range(len(rms)), rms, marker="o", markersize=3, color=f"C{i}", label=kind.removesuffix(".weight"))
        axes = lower[i]
        if layers:
            # Square roots, so that the tails are visible. The first layer is at the bottom.
            rows = np.sqrt(np.array([each.bins for each in layers], float))
            axes.imshow(rows, aspect="auto", origin="lower", extent=(-4, 4, -0.5, len(layers) - 0.5), cmap="Blues")
        axes.set_title(kind.removesuffix(".weight"), fontsize="small")
        axes.set_xlabel("standard deviations", fontsize="small")
    lower[0].set_ylabel("layer")
    upper.set_xlabel("layer")
    upper.set_ylabel("root mean square")
    upper.set_ylim(bottom=0)
    upper.grid(alpha=0.25)
    upper.legend(frameon=False, ncols=4)
    figure.suptitle(f"{report.path.name}: {report.format}", fontsize="medium")
    save(force)
