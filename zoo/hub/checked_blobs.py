"""Which files of the Hugging Face Hub's cache were compared with their hashes: all others are, before their use."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.core.output import atomic_output
from zoo.errors import DownloadError, OutputError
from zoo.hub.http.sha256 import hash_file
from zoo.hub.model_cache import Cache, read_record


def check_blobs(directory: Path, repository: str) -> None:
    """Compare the files of a snapshot with the SHA-256 that they are named after, each once.

    huggingface_hub does not, and a process may be killed between the last byte and a check: only a record of what
    was checked tells.

    Args:
        directory: the snapshot, of links to files that are named after their SHA-256.
        repository: "org/name".

    Raises:
        DownloadError: a file is another one; it is removed.
    """
    record = Cache().root / "hub" / f"{repository.replace('/', '--')}.json"
    known = read_record(record)
    checked = {}
    for blob in sorted({path.resolve() for path in directory.iterdir() if path.is_symlink()}):
        if not re.fullmatch("[0-9a-f]{64}", blob.name):
            continue
        state = blob.stat()
        checked[blob.name] = [state.st_size, state.st_mtime_ns, state.st_ino]
        if known.get(blob.name) != checked[blob.name] and (found := hash_file(blob)) != blob.name:
            blob.unlink()
            problem = f"sends a file whose SHA-256 is {found} instead of {blob.name}; try again"
            raise DownloadError(f"hf:{repository} {problem}")
    if any(known.get(name) != state for name, state in checked.items()):
        _write(record, {**known, **checked})


def _write(path: Path, content: dict[str, Any]) -> None:
    with suppress(OutputError):  # another user's cache: they are checked each time
        Cache().make("hub")
        with atomic_output(path, force=True) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
