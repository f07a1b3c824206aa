"""Register configs by name: the published GPT-2 sizes, a tiny model for tests, and your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from zoo.errors import ConfigError, UnknownName
from zoo.models.gpt2.config import GPTConfig

_CONFIGS: dict[str, GPTConfig] = {}  # canonical name -> config, in the order of registration
_ALIASES: dict[str, str] = {}  # every accepted name, including canonical ones -> canonical name


Size = str | GPTConfig | Mapping[str, Any]
"""The model that a checkpoint must be: a registered name, a config, or some fields of a config."""

# What a name or a config fixes; dropout, padding, biases and a tied head may differ between copies of one model.
_SIZE_FIELDS = ("vocab_size", "context_length", "width", "n_heads", "n_layers", "inner_width")


def register(name: str, config: GPTConfig, *, aliases: Sequence[str] = ()) -> None:
    """Register a config under a name that get_config, create and the command line accept.

    Raises:
        ConfigError: A name is taken, or looks like a path (it has a slash, backslash, colon or a file suffix).
    """
    for new in (name, *aliases):
        if new in _ALIASES:
            raise ConfigError(f"the name {new!r} is already registered, for {_ALIASES[new]}; choose another")
        if not new or set(new) & set("/\\:") or new.endswith((".safetensors", ".pth", ".pt", ".bin", ".gguf")):
            raise ConfigError(f"the name {new!r} looks like a path; use letters, digits, '-', '_' and '.' only")
    _CONFIGS[name] = config
    _ALIASES.update(dict.fromkeys((name, *aliases), name))


def resolve_name(name: str) -> str:
    """Return the canonical name for a name or alias such as "124M".

    Raises:
        UnknownName: The name is not registered. The message suggests similar names.
    """
    try:
        return _ALIASES[name]
    except KeyError:
        raise UnknownName("model", name, _ALIASES, hint="`zoo list` shows all models.") from None


def is_registered(name: str) -> bool:
    """Return whether a name or alias is registered."""
    return name in _ALIASES


def registered_names() -> list[str]:
    """Return all names and aliases."""
    return list(_ALIASES)


def get_config(name: str) -> GPTConfig:
    """Return the config that is registered under a name or alias.

    >>> get_config("355M").width
    1024

    Raises:
        UnknownName: The name is not registered. The message suggests similar names.
    """
    return _CONFIGS[resolve_name(name)]


def to_config(size: Size) -> GPTConfig:
    """Return the config of a size; fields that a mapping leaves out have their defaults.

    Raises:
        UnknownName: it is a name that is not registered.
        ConfigError: it has an unknown field, or a value that cannot be.
    """
    if isinstance(size, Mapping):
        return GPTConfig.from_dict(size)
    return get_config(size) if isinstance(size, str) else size


def known_fields(size: Size) -> dict[str, Any]:
    """Return the config fields that a size tells: of a name, the sizes and the number of heads.

    Raises:
        UnknownName: it is a name that is not registered.
        ConfigError: it has an unknown field.
    """
    if isinstance(size, Mapping):
        GPTConfig.check_names(size)
        return dict(size)
    fields = to_config(size).to_dict()
    return {name: fields[name] for name in (*_SIZE_FIELDS, "dropout")} if isinstance(size, str) else fields


def fixed_fields(size: Size) -> dict[str, Any]:
    """Return the config fields in which a checkpoint must agree with a size."""
    known = known_fields(size)
    if isinstance(size, Mapping):
        return known
    extra = () if isinstance(size, str) else ("norm_eps", "activation")
    return {name: known[name] for name in (*_SIZE_FIELDS, *extra)}


def list_models(pattern: str = "*") -> list[str]:
    """Return the canonical names whose name or alias matches a shell-style pattern, in the order of registration.

    >>> list_models("gpt2-*")
    ['gpt2-small', 'gpt2-medium', 'gpt2-large', 'gpt2-xl']
    """
    found = {canonical for name, canonical in _ALIASES.items() if fnmatchcase(name, pattern)}
    return [name for name in _CONFIGS if name in found]


def list_aliases(name: str) -> list[str]:
    """Return the aliases of a registered model."""
    return [alias for alias, canonical in _ALIASES.items() if canonical == resolve_name(name) != alias]


register("gpt2-small", GPTConfig(), aliases=("gpt2", "124M", "117M"))
register("gpt2-medium", GPTConfig(width=1024, n_heads=16, n_layers=24), aliases=("355M", "345M"))
register("gpt2-large", GPTConfig(width=1280, n_heads=20, n_layers=36), aliases=("774M",))
register("gpt2-xl", GPTConfig(width=1600, n_heads=25, n_layers=48), aliases=("1558M", "1.5B"))
register("distilgpt2", GPTConfig(n_layers=6), aliases=("82M",))
register("stories", GPTConfig(context_length=512, width=192, n_heads=6, n_layers=8, dropout=0.0))
register("test-tiny", GPTConfig(context_length=64, width=48, n_heads=3, n_layers=2))
