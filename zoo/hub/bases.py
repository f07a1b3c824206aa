"""Find the base of a LoRA adapter by its name among the models that are on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from zoo.errors import ZooError
from zoo.hub.hub_client import fetch
from zoo.hub.model_cache import Cache
from zoo.hub.source_table import read_table
from zoo.models.registry import is_registered, resolve_name


def find_base(name: str) -> Path | None:
    """Return a model that is in zoo's cache or in that of the Hugging Face Hub; None if it is in neither.

    Args:
        name: A registered name such as "gpt2", or a repository such as "openai-community/gpt2".
    """
    table = read_table()
    hubs = {model: [each.hub for each in sources.values() if each.hub] for model, sources in table.items()}
    registered = [resolve_name(name)] if is_registered(name) else []
    models = registered or [model for model, names in hubs.items() if name in {hub.split("@")[0] for hub in names}]
    for model in models:
        if entry := Cache().find(model):
            return entry.path
    for repository in [name] if "/" in name else [hub for model in models for hub in hubs.get(model, [])]:
        with suppress(ZooError):
            return fetch(repository, offline=True)
    return None
