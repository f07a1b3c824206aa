"""Resolve what a user names, a path or a model, to a local checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zoo.core.paths import missing
from zoo.core.progress import OnProgress
from zoo.formats.adapter_files import find_names_with
from zoo.hub.runs import weights_of_run
from zoo.models.registry import is_registered, registered_names

PACKAGED = "stories"
"""The model that is part of the package, in zoo/data/."""


def find_checkpoint(source: str | Path, *, on_progress: OnProgress | None = None) -> Path:
    """Return the path of a checkpoint that the user named.

    Args:
        source: A path (for a run of zoo train: its newest weights), the name of a registered model, the https address
            of a file, or a repository of the Hugging Face Hub, hf:org/name@revision. What is not in the cache is
            downloaded.
        on_progress: called as bytes are downloaded and converted.

    Raises:
        MissingWeights: A registered model has no known source, or it is not cached and ZOO_OFFLINE is set.
        DownloadError: The download failed.
        FormatError: The path does not exist.
        UnknownName: The source is neither an existing path nor a registered name.
    """
    path, name = Path(source), str(source)
    if name.startswith("hf:"):
        from zoo.hub.fetch import is_offline
        from zoo.hub.hub_client import fetch

        return fetch(name.removeprefix("hf:"), offline=is_offline())
    if address := re.fullmatch(r"([A-Za-z]{2,}):/{1,2}([^/].*)", name):  # Path turns two slashes into one
        from zoo.hub.fetch import get_url

        return get_url(f"{address[1].lower()}://{address[2]}", on_progress=on_progress)
    if os.path.exists(path):  # noqa: PTH110  # Path.exists raises for a name that is too long
        return weights_of_run(path) or path
    if os.path.isfile(f"{path}.index"):  # noqa: PTH113  # TensorFlow's name for the files that begin so
        return path
    if set(name) & set("/\\") or path.suffix or (isinstance(source, Path) and not is_registered(name)):
        raise missing(path, "file or directory", registered_names())
    if name == PACKAGED:
        return Path(__file__).parents[1] / "data" / f"{PACKAGED}.safetensors"
    from zoo.hub.fetch import get_model

    return get_model(name, on_progress=on_progress)


find_names_with(find_checkpoint)  # an adapter may name its base
