"""Which files belong to a checkpoint. A name in its directory may be a link to somewhere else, or no file at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from zoo.errors import CorruptFile, FormatError, UnsafeFile

MAX_JSON_VALUES = 300_000
"""In one text; the 50,000 tokens and merges of GPT-2 are 200,000. In memory a value takes up to 200 bytes."""


def missing(path: Path, what: str = "file", names: Iterable[str] = ()) -> FormatError:
    """Return the error for a path that does not exist, with the nearest of what its directory has.

    Args:
        path: that was named.
        what: that it should be, such as "file or directory".
        names: other names that may have been meant.
    """
    try:
        beside = {each.name: str(each) for each in path.parent.iterdir() if not each.name.startswith(".")}
    except OSError:
        beside = {}
    if path.name == str(path):
        beside |= {name: name for name in names}
    near = [beside[name] for name in get_close_matches(path.name, beside, n=3)]
    return FormatError(path, f"there is no such {what}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


LFS_MAGIC = b"version https://git-lfs"


def check_not_lfs(start: bytes, path: Path | str) -> None:
    """Refuse a file whose first bytes are those of a Git LFS pointer.

    Raises:
        FormatError: they are.
    """
    if start.startswith(LFS_MAGIC):
        raise FormatError(path, "is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def follow(path: Path) -> Path:
    """Return what the user means by a path: where a link of his own to one file leads, otherwise the path itself."""
    return path.resolve() if _is_file(path) and _leads_out(path, path.parent) else path


def is_own_file(path: Path) -> bool:
    """Whether there is a regular file at a path that lies in its directory; see check_file."""
    return _is_file(path) and not _leads_out(path, path.parent)


def is_there(path: Path) -> bool:
    """Whether a directory has such a name, be it a link that leads nowhere: that is damage, not absence."""
    return os.path.lexists(path)


def check_file(path: Path, root: Path | None = None) -> None:
    """Refuse what is not a file of its own checkpoint, before it is opened.

    Links inside the directory are followed, and those of huggingface_hub's cache, whose snapshots/REVISION link to
    blobs beside it. A pipe, on which reading would wait for ever, and a device are no files.

    Args:
        path: to be opened.
        root: the checkpoint's directory, if the path is not directly in it.

    Raises:
        UnsafeFile: it is a link that leads out of the directory.
        FormatError: there is no regular file.
    """
    if _leads_out(path, root or path.parent):
        target = os.path.realpath(path)
        raise UnsafeFile(path, f"is a link to {target}, out of its directory, and not followed; copy the file")
    if not _is_file(path):
        problem = "it is no file" if os.path.lexists(path) else "no such file"
        raise FormatError(path, f"cannot be read ({problem})")


def check_json(text: bytes, path: Path | str) -> None:
    """Refuse, before it is parsed, a text of which a parser would make far more memory than it has bytes.

    Raises:
        CorruptFile: it has more values than MAX_JSON_VALUES.
    """
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_JSON_VALUES:
        raise CorruptFile(path, f"has more than {MAX_JSON_VALUES:,} values in its JSON; it is no part of a GPT-2")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for a name that is too long


def _leads_out(path: Path, root: Path) -> bool:
    if root == path.parent and not os.path.islink(path):  # noqa: PTH114
        return False
    # Path.resolve raises for links that lead in a circle.
    home, target = Path(os.path.realpath(root)), Path(os.path.realpath(path))
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    return not (target.is_relative_to(home) or target.is_relative_to(blobs))
