"""Where the base of a LoRA adapter is looked for by its name. Formats do not know the caches, so zoo.hub adds them."""

from collections.abc import Callable
from pathlib import Path

find_by_name: list[Callable[[str], Path | None]] = []
"""Functions that return the path of a model on this machine, or None."""
