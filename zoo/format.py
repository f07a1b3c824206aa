"""What a format is: a container, a layout table and a config map. Subclass Format to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.config import GPTConfig
from zoo.config_map import ConfigMap
from zoo.mapping import Drop, Table, Tensors, to_ours
from zoo.stream import Progress, ignore_progress
from zoo.tensors import LazyTensor

if TYPE_CHECKING:
    from zoo.vocabulary import Vocabulary


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it lies in its files, in its format's names; no tensor has been read yet.

    Attributes:
        path: the file or directory.
        config: the architecture.
        tensors: by the format's names, without `prefix`, in the order of the files.
        prefix: that every name had in the file, such as "transformer.".
        vocabulary: of its own tokenizer, when it carries one.
        files: that hold the weights and the config, for hashing.
        provenance: where the weights came from, as recorded by the zoo that wrote them. When writing, look at it
            last: the source's files may still be being hashed, and looking waits for that.
        notes: sentences about what is in the files and is not converted.
    """

    path: Path
    config: GPTConfig
    tensors: Tensors
    prefix: str = ""
    vocabulary: Vocabulary | None = None
    files: tuple[Path, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Format(ABC):
    """One file format. Attributes are data about it; the three methods touch its files.

    Attributes:
        name: as in `--to NAME`.
        summary: one line for lists.
        table: the layout.
        config_map: how it spells the config.
        suffixes: of output names that mean this format when no format is given.
        is_directory: whether it writes a directory.
        dtypes: names of the dtypes it can store.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    table: ClassVar[Table]
    config_map: ClassVar[ConfigMap]
    suffixes: ClassVar[tuple[str, ...]] = ()
    is_directory: ClassVar[bool] = False
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether the content of a file or directory is this format's; it looks at magic and names, and never raises
        for a file that is something else."""

    @abstractmethod
    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open a checkpoint without reading its tensors.

        Args:
            path: the file or directory.
            config: what the user says it is; formats that store no config need it, others ignore it.

        Raises:
            FormatError: the files are not a whole checkpoint of this format.
        """

    @abstractmethod
    def write(self, path: Path, checkpoint: Checkpoint, on_bytes: Progress = ignore_progress) -> None:
        """Write a checkpoint, whose tensors are already in this format's names, to a path that does not exist yet.

        Raises:
            CannotHold: the format has no place for something.
            OSError: the disk is full, or the path cannot be written.
        """

    def cannot_hold(self, config: GPTConfig) -> list[str]:
        """Say why the format cannot hold a model of this config; an empty list means that it can."""
        return self.config_map.cannot_hold(config)

    def to_ours(self, checkpoint: Checkpoint) -> tuple[dict[str, LazyTensor], list[Drop]]:
        """Map a checkpoint's tensors to zoo's names, and say which are dropped.

        Raises:
            CheckpointMismatch: names, shapes or dtypes are not those of the config.
        """
        return to_ours(self.table, checkpoint.tensors, checkpoint.config, checkpoint.path)
