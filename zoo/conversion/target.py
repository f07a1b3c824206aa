"""Which format an output's name means, and whether the two go together."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import OptionError
from zoo.formats.base import Format
from zoo.formats.registry import usable_formats


def check_shape(target: Format, out: Path) -> None:
    """Refuse a directory format whose output is named like a file of another format.

    Raises:
        OptionError: it is.
    """
    meant = [each.name for each in usable_formats() if out.suffix in each.suffixes]
    if target.is_directory and meant:
        raise OptionError(
            f"{target.name} is written as a directory, but {out} has the suffix of a file ({', '.join(meant)}); "
            "leave the suffix out, or choose another format"
        )


def format_of_suffix(out: Path) -> str:
    """Return the name of the format that an output's suffix means.

    Raises:
        OptionError: none does.
    """
    for each in usable_formats():
        if out.suffix in each.suffixes:
            return each.name
    raise OptionError(f"the name {out} does not say which format to write; name one with to=NAME")
