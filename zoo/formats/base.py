"""What a format is: a container, a layout table and a config map. Subclass Format to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from zoo.core.stream import Progress, ignore_progress
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import OptionError
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Drop, Table, to_ours
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it lies in its files, in its format's names; no tensor has been read yet.

    Attributes:
        path: the file or directory.
        config: the architecture.
        tensors: by the format's names, without `prefix`, in the order of the files.
        prefix: that every name had in the file, such as "transformer.".
        vocabulary: its tokenizer's files and its special tokens.
        files: that hold the weights and the config, for hashing.
        provenance: where the weights came from, as recorded by the zoo that wrote them. When writing, look at it
            last: the source's files may still be being hashed, and looking waits for that.
        notes: sentences about what is in the files and is not converted.
    """

    path: Path
    config: GPTConfig
    tensors: Tensors
    prefix: str = ""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    files: tuple[Path, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WriteOptions:
    """How a format shall write.

    Attributes:
        on_bytes: told of bytes as they are written.
        encoding: one of the format's encodings, "" for none: the tensors' own dtypes.
        max_shard_bytes: tensor bytes in a file at most, for formats that shard; None for one file.
    """

    on_bytes: Progress = ignore_progress
    encoding: str = ""
    max_shard_bytes: int | None = None


class Format(ABC):
    """One file format. Attributes are data about it; sniff, read and write touch its files.

    Attributes:
        name: as in `--to NAME`.
        summary: one line for lists.
        table: the layout.
        config_map: how it spells the config.
        suffixes: of output names that mean this format when no format is given.
        is_directory: whether it writes a directory.
        dtypes: names of the dtypes it can store.
        encodings: names, beside dtypes, of quantised ways in which it can store matrices.
        reads: whether read() is there; sniff() must be, so that such a file is recognised.
        writes: whether write() is there.
        shards: whether it can spread the weights over several files.
        pads: whether it can hold rows of the embedding that are not tokens; others get exactly vocab_size rows.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    table: ClassVar[Table]
    config_map: ClassVar[ConfigMap]
    suffixes: ClassVar[tuple[str, ...]] = ()
    is_directory: ClassVar[bool] = False
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")
    encodings: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    shards: ClassVar[bool] = False
    pads: ClassVar[bool] = False

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether the content of a file or directory is this format's; it looks at magic and names, and never raises
        for a file that is something else.
        """

    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open a checkpoint without reading its tensors.

        Args:
            path: the file or directory.
            config: what the user says it is; formats that store no config need it, others ignore it.

        Raises:
            FormatError: the files are not a whole checkpoint of this format.
            OptionError: the format is one that zoo only writes.
        """
        raise OptionError(f"zoo writes {self.name}, but does not read it; `zoo formats` shows what it reads")

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write a checkpoint, whose tensors are already in this format's names, to a path that does not exist yet.

        Raises:
            CannotHold: the format has no place for something.
            OSError: the disk is full, or the path cannot be written.
            OptionError: the format is one that zoo only reads.
        """
        raise OptionError(f"zoo reads {self.name}, but does not write it; `zoo formats` shows what it writes")

    def stored(self, name: str, tensor: LazyTensor, encoding: str) -> LazyTensor:
        """Return what reading back will give for a tensor that was written in one of the format's encodings.

        Args:
            name: of the tensor, in the format's names.
            tensor: as it was before.
            encoding: of the options.
        """
        return tensor

    def nbytes(self, name: str, tensor: LazyTensor, encoding: str) -> int:
        """Return how many bytes a tensor takes in the format's files.

        Args:
            name: of the tensor, in the format's names.
            tensor: as it is before.
            encoding: of the options.
        """
        return tensor.nbytes

    def cannot_hold(self, config: GPTConfig) -> list[str]:
        """Say why the format cannot hold a model of this config; an empty list means that it can."""
        return self.config_map.cannot_hold(config)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Say what of a checkpoint is left behind, or means something else, once it is written in this format.

        Args:
            checkpoint: what will be written.
        """
        return self.config_map.forgets(checkpoint.config)

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Say what of the vocabulary and the special tokens has no place in this format; an empty list means nothing.

        Args:
            checkpoint: what will be written.
        """
        return []

    def to_ours(self, checkpoint: Checkpoint) -> tuple[dict[str, LazyTensor], list[Drop]]:
        """Map a checkpoint's tensors to zoo's names, and say which are dropped.

        Raises:
            CheckpointMismatch: names, shapes or dtypes are not those of the config.
        """
        return to_ours(self.table, checkpoint.tensors, checkpoint.config, checkpoint.path)
