"""Types of parameters that several commands share, with completion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from zoo.config import GPTConfig
from zoo.errors import ZooError


class _Name(click.ParamType[Any]):
    """A name from a list that is looked up only when it is needed."""

    def names(self) -> list[str]:
        raise NotImplementedError

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete from the known names."""
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]


class FormatName(_Name):
    """The name of a format."""

    name = "format"

    def names(self) -> list[str]:
        """All formats, those of plugins too."""
        from zoo.plugins import format_names

        return format_names()


class ModelSize(_Name):
    """A registered model, or a JSON file with the fields of a config."""

    name = "size"

    def names(self) -> list[str]:
        """All registered names and aliases."""
        from zoo.registry import list_aliases, list_models

        return [alias for name in list_models() for alias in (name, *list_aliases(name))]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | GPTConfig:
        """Read a JSON file; leave a name to be looked up."""
        if isinstance(value, GPTConfig) or not str(value).endswith(".json"):
            return value  # type: ignore[no-any-return]
        from zoo.converters._files import read_json

        try:
            return GPTConfig.from_dict(read_json(Path(value)))
        except ZooError as error:
            self.fail(str(error), param, ctx)


FORMAT = FormatName()
SIZE = ModelSize()
DTYPE = click.Choice(["float32", "bfloat16", "float16"])
PATH = click.Path(path_type=Path)
