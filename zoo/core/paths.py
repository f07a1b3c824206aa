"""Path safety: reject links that leave the checkpoint and files that are not regular."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from zoo.errors import CorruptFile, FormatError, UnsafeFile

MAX_JSON_VALUES = 300_000
"""Per JSON text. GPT-2's 50,000 tokens and merges are 200,000 values. A value takes up to 200 bytes in memory."""


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
    """Raise an error if a file begins like a Git LFS pointer.

    Raises:
        FormatError: It does.
    """
    if start.startswith(LFS_MAGIC):
        raise FormatError(path, "is a Git LFS pointer instead of the file; run `git lfs pull` in its repository")


def follow(path: Path) -> Path:
    """Resolve a path that the user gave: if it is a link to a file, return its target, otherwise the path itself."""
    return path.resolve() if _is_file(path) and _leads_out(path, path.parent) else path


def is_own_file(path: Path) -> bool:
    """Return whether a path is a regular file that lies in its directory; see check_file."""
    return _is_file(path) and not _leads_out(path, path.parent)


def is_there(path: Path) -> bool:
    """Return whether a directory has an entry of this name. A broken link counts, because it is damage, not absence."""
    return os.path.lexists(path)


def check_file(path: Path, root: Path | None = None) -> None:
    """Raise an error for anything but a regular file of its checkpoint, before it is opened.

    Links within the directory are followed, and so are those in huggingface_hub's cache, where snapshots/REVISION links
    to blobs. Pipes, on which reading would block, and devices are rejected.

    Args:
        path: Path to be opened.
        root: Directory of the checkpoint, if the path is in a subdirectory of it.

    Raises:
        UnsafeFile: The path is a link that leaves the directory.
        FormatError: The path is not a regular file.
    """
    if _leads_out(path, root or path.parent):
        target = os.path.realpath(path)
        raise UnsafeFile(path, f"is a link to {target}, outside its directory, which is not followed; copy the file")
    if not _is_file(path):
        problem = "it is not a regular file" if os.path.lexists(path) else "no such file"
        raise FormatError(path, f"cannot be read ({problem})")


def check_json(text: bytes, path: Path | str) -> None:
    """Raise an error if a JSON text would take far more memory when parsed than it has bytes.

    Raises:
        CorruptFile: It has more values than MAX_JSON_VALUES.
    """
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_JSON_VALUES:
        raise CorruptFile(path, f"has more than {MAX_JSON_VALUES:,} JSON values, which no file of a GPT-2 needs")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for a name that is too long


def _leads_out(path: Path, root: Path) -> bool:
    if root == path.parent and not os.path.islink(path):  # noqa: PTH114
        return False
    # Path.resolve raises for circular links.
    home, target = Path(os.path.realpath(root)), Path(os.path.realpath(path))
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    return not (target.is_relative_to(home) or target.is_relative_to(blobs))
