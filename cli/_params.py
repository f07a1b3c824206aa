"""Types of parameters that several commands share, with completion."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from zoo.errors import ZooError
from zoo.models.gpt2.config import GPTConfig


class _Name(click.ParamType[Any], ABC):
    """A name from a list that is looked up only when it is needed."""

    @abstractmethod
    def names(self) -> list[str]:
        """All names that may be given."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete from the known names."""
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]


class FormatName(_Name):
    """The name of a format."""

    name = "format"

    def names(self) -> list[str]:
        """All formats, those of plugins too."""
        from zoo.formats.registry import format_names

        return format_names()


class ModelSize(_Name):
    """A registered model, or a JSON file with the fields of a config."""

    name = "size"

    def names(self) -> list[str]:
        """All registered names and aliases."""
        from zoo.models.registry import list_aliases, list_models

        return [alias for name in list_models() for alias in (name, *list_aliases(name))]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | GPTConfig:
        """Read a JSON file; leave a name to be looked up."""
        if isinstance(value, GPTConfig) or not str(value).endswith(".json"):
            return value
        from zoo.containers.files import read_json

        try:
            return GPTConfig.from_dict(read_json(Path(value)))
        except ZooError as error:
            self.fail(str(error), param, ctx)


class ModelName(_Name):
    """A registered model."""

    name = "model"

    def names(self) -> list[str]:
        """All registered names and aliases."""
        return ModelSize().names()


class DtypeName(_Name):
    """A dtype, or an encoding of some format."""

    name = "dtype"

    def names(self) -> list[str]:
        """All dtypes of weights, and the encodings of all formats."""
        from zoo.formats.registry import usable_formats

        encodings = (encoding for found in usable_formats() for encoding in found.encodings)
        return ["float32", "bfloat16", "float16", *dict.fromkeys(encodings)]


class SizeInBytes(click.ParamType[Any]):
    """A number of bytes with an optional decimal unit: 2GB, 500MB, 1000000."""

    name = "bytes"
    units: ClassVar = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number and its unit."""
        match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmg]?b?)", str(value).lower())
        if match is None or match[2] not in self.units:
            self.fail(f"{value!r} is no size; write it like 2GB or 500MB", param, ctx)
        return int(float(match[1]) * self.units[match[2]])


class Several(click.ParamType[Any]):
    """Values with commas between them."""

    name = "list"

    def __init__(self, kind: click.ParamType[Any] | Sequence[str]) -> None:
        """Take the type of one value, or all there are."""
        self._kind = kind if isinstance(kind, click.ParamType) else click.Choice(kind)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Read each."""
        if isinstance(value, tuple):
            return value
        return tuple(self._kind.convert(part.strip(), param, ctx) for part in value.split(",") if part.strip())

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the last."""
        before, comma, last = incomplete.rpartition(",")
        found = self._kind.shell_complete(ctx, param, last)
        return [CompletionItem(f"{before}{comma}{item.value}") for item in found]


FORMAT = FormatName()
SIZE = ModelSize()
MODEL = ModelName()
DTYPE = DtypeName()
SIZE_IN_BYTES = SizeInBytes()
PATH = click.Path(path_type=Path)
