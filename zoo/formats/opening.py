"""Open a checkpoint at a path, in whatever format it is, without reading its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.core.paths import follow
from zoo.core.tensors import LazyTensor
from zoo.errors import CheckpointMismatch, ConfigError, FormatError
from zoo.formats.base import Checkpoint, Format
from zoo.formats.registry import detect_format, get_format
from zoo.formats.rules import Drop
from zoo.formats.vocabulary import check_vocabulary
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import get_config

# What --size pins down; the rest (dropout, padding, biases, a tied head) may differ between copies of one model.
_SIZE_FIELDS = ("vocab_size", "context_length", "width", "n_heads", "n_layers", "inner_width")


@dataclass(frozen=True)
class Opened:
    """A checkpoint with its tensors in zoo's names.

    Attributes:
        format: what reads it.
        checkpoint: as it lies in its files.
        tensors: the model's parameters by zoo's names, in zoo's orientation; nothing has been read yet.
    """

    format: Format
    checkpoint: Checkpoint
    tensors: dict[str, LazyTensor]


def open_path(
    path: Path | str, *, format: str | None = None, size: str | GPTConfig | None = None
) -> tuple[Format, Checkpoint]:
    """Open a checkpoint of any format, in its own names.

    Args:
        path: file or directory; zoo.hub.resolve turns names and addresses into paths.
        format: the format's name; None recognises it by its content.
        size: the model it must be, by name or config; formats that store no config take it from here.

    Raises:
        UnknownName: there is no such format or model.
        FormatError: it is not an intact checkpoint of the format.
        ConfigError: it is another model than `size` says.
    """
    path = follow(Path(path))
    expected = get_config(size) if isinstance(size, str) else size
    found = get_format(format) if format else detect_format(path)
    try:
        checkpoint = found.read(path, expected)
    except OSError as error:  # no right to read it, a broken disk
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
    if expected:
        for field in _SIZE_FIELDS:
            is_, asked = getattr(checkpoint.config, field), getattr(expected, field)
            if is_ != asked:
                name = size if isinstance(size, str) else "the given config"
                raise ConfigError(f"{path} is not {name}: its {field} is {is_}, not {asked}")
    return found, check_vocabulary(checkpoint)


def open_parameters(path: Path | str, *, format: str | None = None, size: str | GPTConfig | None = None) -> Opened:
    """Open a checkpoint in zoo's names, having compared the tensors that are left out with what they repeat.

    Arguments and errors are those of open_path.

    Raises:
        CheckpointMismatch: names, shapes or dtypes are not those of the config, or a copy differs from its original.
    """
    found, checkpoint = open_path(path, format=format, size=size)
    tensors, drops = found.to_ours(checkpoint)
    check_redundant(checkpoint, drops)
    return Opened(found, checkpoint, tensors)


def check_redundant(source: Checkpoint, drops: list[Drop]) -> None:
    """Prove that what is about to be dropped is redundant.

    Raises:
        CheckpointMismatch: it is not; the message names the tensors.
    """
    problems = [f"tensor {drop.name} is not {drop.why}" for drop in drops if not drop.redundant()]
    if problems:
        raise CheckpointMismatch(source.path, problems)
