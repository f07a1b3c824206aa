"""The record of where weights came from, which is stored in outputs."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

from blake3 import blake3

import zoo
from zoo.conversion.plan import Plan

MAX_FILES = 32
MAX_HISTORY_BYTES = 8 << 10
"""Largest record of a source that is kept. The record of very many conversions is longer and is dropped."""


def known_origin(plan: Plan) -> dict[str, Any]:
    """Return the origin of the weights, without hashes. It does not depend on when and where they are converted."""
    record: dict[str, Any] = {"zoo_version": zoo.__version__}
    if plan.source.files:
        record["source_format"] = plan.source_format.name
    if casts := plan.casts():
        record["cast"] = casts
    if plan.options.encoding:
        record["encoding"] = plan.options.encoding
    earlier = dict(plan.source.provenance)
    if earlier and len(json.dumps(earlier)) < MAX_HISTORY_BYTES:
        record["source_provenance"] = earlier
    return record


def hash_files(files: tuple[Path, ...]) -> dict[str, str]:
    """Return the BLAKE3 hash of each file, as b3sum prints it, by file name.

    For more than MAX_FILES, only the hash of all hashes is kept, because the record must fit into a header.
    """
    hashes: dict[str, str] = {}
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # In one call, which releases the interpreter lock; reading block by block would not.
            name = path.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            hashes[name] = blake3(data).hexdigest()
    if len(hashes) > MAX_FILES:
        return {f"{len(hashes)} files": blake3("".join(hashes.values()).encode()).hexdigest()}
    return hashes
