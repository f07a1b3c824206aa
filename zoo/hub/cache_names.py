"""Names of files in the cache."""

from __future__ import annotations

import hashlib
import re

from zoo.hub.source_table import redacted


def key_of(name: str) -> str:
    """Return a file name for a model's name or a URL; nothing of a URL's query is in it."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        return name
    end = re.sub(r"[^A-Za-z0-9._-]", "_", redacted(name).rstrip("/").rpartition("/")[2])
    return f"{end[-40:]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def plain_name(name: str) -> str:
    """Return a plain file name that a record gives; a ValueError if it might lead elsewhere."""
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ValueError(name)
    return name
