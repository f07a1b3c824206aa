"""Write figures to files, without a display."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.output import atomic_output, check_output
from zoo.errors import MissingPackage, OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")


def check_figure(out: str | Path, *, force: bool) -> None:
    """Raise an error if a figure cannot be written to a path, before its data is computed.

    Raises:
        OptionError: The suffix is not supported.
        OutputError: The file exists, or its directory does not.
        MissingPackage: matplotlib is not installed.
    """
    _check_suffix(Path(out))
    check_output(Path(out), force=force)
    _figure_class()


def make_figure(out: str | Path, width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure without a display or matplotlib's global state, and a function that writes it to a file."""
    out = Path(out)
    _check_suffix(out)
    figure: Figure = _figure_class()(figsize=(width, height), layout="constrained")

    def save(force: bool) -> None:
        # Without a date, the same data gives the same bytes.
        metadata: dict[str, Any] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[out.suffix]
        with atomic_output(out, force=force) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # The font lacks some scripts; their tokens are drawn as boxes.
            figure.savefig(temporary, dpi=150, metadata=metadata)

    return figure, save


def _check_suffix(out: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise OptionError(f"{out} must end in {', '.join(SUFFIXES)}")


def _figure_class() -> Any:
    try:
        return import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise MissingPackage("plots need matplotlib; install it with `pip install 'gpt2-zoo[plot]'`") from error
