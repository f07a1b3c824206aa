"""Types of parameters that several commands share, with completion."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from zoo.errors import ZooError
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size


class _Name(click.ParamType[Any], ABC):
    """A name from a list that is looked up only when it is needed."""

    @abstractmethod
    def names(self) -> list[str]:
        """All names that may be given."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete from the known names."""
        return _starting(self.names(), incomplete)


def _starting(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class FormatName(_Name):
    """The name of a format."""

    name = "format"

    def names(self) -> list[str]:
        """All formats, those of plugins too."""
        from zoo.formats.registry import format_names

        return format_names()


class ModelSize(_Name):
    """A registered model, or fields of a config: a JSON object, or a file that holds one."""

    name = "size"

    def names(self) -> list[str]:
        """All registered names and aliases."""
        from zoo.models.registry import list_aliases, list_models

        return [alias for name in list_models() for alias in (name, *list_aliases(name))]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Read a JSON object, or a file of one; leave a name to be looked up."""
        if not isinstance(value, str) or not (value.endswith(".json") or value.lstrip().startswith("{")):
            return value
        from zoo.containers.files import parse_json, read_json

        try:
            is_file = value.endswith(".json")
            fields = read_json(Path(value)) if is_file else parse_json(value.encode(), Path("--size"), "its value")
            GPTConfig.check_names(fields)
        except ZooError as error:
            self.fail(str(error), param, ctx)
        return fields


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


class Checkpoint(ModelName):
    """A checkpoint: a path, the name of a model, an address, or a run of zoo train."""

    name = "checkpoint"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete names of models, and files."""
        return [*super().shell_complete(ctx, param, incomplete), CompletionItem(incomplete, type="file")]


class File(click.ParamType[str]):
    """A file, directory or pattern to read; - is stdin."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell."""
        return [CompletionItem(incomplete, type="file")]


class RunDirectory(click.Path):
    """A run of zoo train, or its metrics.jsonl."""

    name = "run"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete runs in this directory and in runs/, and files."""
        runs = [str(path.parent) for pattern in ("*", "*/*") for path in Path().glob(f"{pattern}/metrics.jsonl")]
        return [*_starting(sorted(runs), incomplete), CompletionItem(incomplete, type="file")]


class Output(click.Path):
    """A file or directory to write."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Refuse - and an empty name."""
        if str(value) in ("-", ""):
            self.fail("zoo does not write to standard output; give the name of a file or directory", param, ctx)
        return Path(value)


class Integer(click.IntRange):
    """An integer in a range."""

    name = "n"


class Finite(click.FloatRange):
    """A number that is not NaN or infinite, in a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse NaN, which is in every range, and infinity."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class SizeInBytes(click.ParamType[Any]):
    """A number of bytes with an optional decimal unit: 2GB, 500MB, 1000000."""

    name = "bytes"
    units: ClassVar = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number and its unit."""
        match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmg]?b?)", str(value).lower())
        if match is None or match[2] not in self.units:
            self.fail(f"{value!r} is not a size; write it like 2GB or 500MB", param, ctx)
        return int(float(match[1]) * self.units[match[2]])


class Several(click.ParamType[Any]):
    """Values separated by commas."""

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
CHECKPOINT = Checkpoint()
FILE = File()
RUN = RunDirectory()
OUTPUT = Output()
PATH = click.Path(path_type=Path)
COUNT = Integer(min=1)
COUNT_OR_0 = Integer(min=0)
NOT_NEGATIVE = Finite(min=0)
