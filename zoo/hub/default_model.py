"""The model to use where none is named: never one because it happens to be downloaded."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import platformdirs

from zoo.errors import FormatError
from zoo.hub.resolve import PACKAGED


def config_file() -> Path:
    """Return the path of the user's settings, such as ~/.config/zoo/config.toml."""
    return platformdirs.user_config_path("zoo", appauthor=False) / "config.toml"


def default_model() -> tuple[str, str]:
    """Return a model and where it is named: ZOO_MODEL, else `model` in the user's settings, else the packaged model.

    Raises:
        FormatError: the settings are not TOML, or `model` is not a string.
    """
    if name := os.environ.get("ZOO_MODEL"):
        return name, "ZOO_MODEL"
    path = config_file()
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        settings = {}
    except (OSError, ValueError) as error:
        raise FormatError(path, f"cannot be read: {error}; correct or remove it") from error
    name = settings.get("model", PACKAGED)
    if not isinstance(name, str) or not name:
        raise FormatError(path, 'model must be a name or path, such as model = "gpt2-small"')
    return name, str(path) if "model" in settings else "the package"
