"""Open a checkpoint of any format at a path, without reading its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.core.paths import follow
from zoo.core.tensors import LazyTensor
from zoo.errors import CheckpointMismatch, ConfigError, FormatError
from zoo.formats.base import Checkpoint, Format
from zoo.formats.registry import detect_format, get_format
from zoo.formats.rules import Drop
from zoo.formats.shapes import contradiction
from zoo.formats.vocabulary_notes import check_vocabulary
from zoo.models.registry import Size, fixed_fields, known_fields


@dataclass(frozen=True)
class Opened:
    """A checkpoint with its tensors in zoo's names.

    Attributes:
        format: The format that reads it.
        checkpoint: The checkpoint in its format's names.
        tensors: The parameters in zoo's names and orientation; nothing has been read yet.
    """

    format: Format
    checkpoint: Checkpoint
    tensors: dict[str, LazyTensor]


def open_path(source: Path | str, *, format: str | None = None, size: Size | None = None) -> tuple[Format, Checkpoint]:
    """Open a checkpoint of any format without reading its tensors.

    Args:
        source: file or directory, the name of a model, an address, or the directory of a training run.
        format: its format's name; None recognises it by its content.
        size: the model it must be, by name or config; formats that store no config take it from here.

    Raises:
        UnknownName: there is no such format or model.
        FormatError: it is not an intact checkpoint of the format.
        ConfigError: it is another model than `size` says.
    """
    path = follow(Path(source))
    known = None if size is None else known_fields(size)
    found = get_format(format) if format else detect_format(path)
    try:
        checkpoint = found.read(path, known)
    except OSError as error:  # no right to read it, a broken disk
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
    if size is not None:
        wrong = contradiction(fixed_fields(size), checkpoint.config.to_dict())
        if wrong:
            name = size if isinstance(size, str) else "the model of that size"
            raise ConfigError(f"{path} is not {name}: {wrong}")
    return found, check_vocabulary(checkpoint)


def open_parameters(path: Path | str, *, format: str | None = None, size: Size | None = None) -> Opened:
    """Open a checkpoint in zoo's names, after checking that the tensors it drops are redundant.

    Arguments and errors are those of open_path.

    Raises:
        CheckpointMismatch: Names, shapes or dtypes differ from those of the config, or a copy differs from its
            original.
    """
    found, checkpoint = open_path(path, format=format, size=size)
    tensors, drops = found.to_ours(checkpoint)
    check_redundant(checkpoint, drops)
    return Opened(found, checkpoint, tensors)


def check_redundant(source: Checkpoint, drops: list[Drop]) -> None:
    """Check that the tensors to be dropped are redundant.

    Raises:
        CheckpointMismatch: They are not; the message names them.
    """
    problems = [f"tensor {drop.name} is not {drop.why}" for drop in drops if not drop.redundant()]
    if problems:
        raise CheckpointMismatch(source.path, problems)
