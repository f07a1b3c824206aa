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
from zoo.formats.shapes import contradiction
from zoo.models.registry import Size, fixed_fields, known_fields


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


def open_path(path: Path | str, *, format: str | None = None, size: Size | None = None) -> tuple[Format, Checkpoint]:
    """Open a checkpoint of any format, in its own names.

    Args:
        path: file or directory; zoo.hub.resolve turns names and addresses into paths.
        format: the format's name; None recognises it by its content.
        size: the model it must be: its name, its config, or some fields of its config. Formats that store no config
            take theirs from here.

    Raises:
        UnknownName: there is no such format or model.
        FormatError: it is not an intact checkpoint of the format.
        ConfigError: it is another model than `size` says.
    """
    path = follow(Path(path))
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
    return found, checkpoint


def open_parameters(path: Path | str, *, format: str | None = None, size: Size | None = None) -> Opened:
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
