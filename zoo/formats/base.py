"""The base class of formats: a container, a layout table and a config map. Subclass Format to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from zoo.core.html import html_table
from zoo.core.stream import Progress, ignore_progress
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import OptionError
from zoo.formats.config_map import ConfigMap
from zoo.formats.mapping import to_ours
from zoo.formats.rules import Drop, Table
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import Vocabulary

Known = Mapping[str, Any] | None
"""Fields of GPTConfig that the user says a checkpoint has."""


@dataclass(frozen=True)
class AdamState:
    """AdamW's state beside the weights, from which training can go on.

    Attributes:
        step: Number of steps it has made.
        exp_avg: Running means of the gradients by the format's names of the parameters.
        exp_avg_sq: Running means of their squares.
        betas: Decay rates of the two.
    """

    step: int
    exp_avg: Tensors
    exp_avg_sq: Tensors
    betas: tuple[float, float]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint with its format's tensor names. No tensor has been read yet.

    Attributes:
        path: The file or directory.
        config: The architecture.
        tensors: Tensors by the format's names, without `prefix`, in the order of the files.
        prefix: Prefix of all names in the file, such as "transformer.".
        vocabulary: The files and the special tokens of its tokenizer.
        files: Files with the weights and the config, for hashing.
        provenance: Origin of the weights, as the zoo that wrote them recorded it.
        notes: Sentences about parts of the files that are not converted.
        exact: whether the tensors are the file's own values; False where reading rounds them.
        left_behind: names of trained tensors that belong to no language model, such as a value head.
        adam: AdamW's state, if the files have it and zoo knows its order.
    """

    path: Path
    config: GPTConfig
    tensors: Tensors
    prefix: str = ""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    files: tuple[Path, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exact: bool = True
    left_behind: tuple[str, ...] = ()
    adam: AdamState | None = None

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self.tensors)} tensors, {self.config.n_parameters:,} parameters)"

    def _repr_html_(self) -> str:
        rows = [(name, " x ".join(map(str, each.shape)), each.stored_as) for name, each in self.tensors.items()]
        return html_table(("tensor", "shape", "dtype"), rows)


@dataclass(frozen=True)
class WriteOptions:
    """Options for writing a checkpoint.

    Attributes:
        on_bytes: Callback with the number of bytes written.
        encoding: One of the format's encodings; "" keeps the tensors' dtypes.
        provenance: Returns the origin of the weights, to be recorded. Call it after writing the tensors: it blocks
            until the source files are hashed.
        max_shard_bytes: Most bytes of tensors per file, for formats that shard; None writes one file.
        variant: One of the format's variants; "" writes the usual one.
        name: Name of the source, for formats that store a name; "" for a model in memory.
    """

    on_bytes: Progress = ignore_progress
    provenance: Callable[[], dict[str, Any]] = dict
    encoding: str = ""
    max_shard_bytes: int | None = None
    variant: str = ""
    name: str = ""


class Format(ABC):
    """A file format. Its attributes describe it; only sniff, read and write access files.

    Attributes:
        name: Name, as in `--to NAME`.
        summary: One line for lists.
        table: Layout.
        config_map: Names of the config's fields.
        suffixes: Suffixes of output names that select this format.
        is_directory: Whether it writes a directory.
        dtypes: Names of the dtypes that it can store.
        encodings: Names of the quantisations in which it can store matrices.
        reads: Whether it implements read(). Every format implements sniff(), so that its files are recognised.
        writes: Whether it implements write().
        shards: Whether it can shard the weights into several files.
        pads: Whether its programs keep padding rows of the embedding apart from tokens; other formats are written with
            exactly vocab_size rows.
        shares: Whether a tensor under two names is stored once.
        variants: Other forms that it can write, with one line on each; programs that need one are rare.
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
    shares: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, str]] = {}

    def layout(self, variant: str) -> Table:
        """Return the table by which a variant is written; reading always uses `table`."""
        return self.table

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Return whether a file or directory is in this format, judged by magic numbers and names. Never raises."""

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open a checkpoint without reading its tensors.

        Args:
            path: The file or directory.
            known: fields of the config that the user gave; formats that store no config need some, others ignore them.

        Raises:
            FormatError: The files are not a complete checkpoint of this format.
            OptionError: zoo only writes this format.
        """
        raise OptionError(
            f"zoo writes {self.name}, but does not read it; `zoo formats` lists the formats that it reads"
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write a checkpoint, whose tensors have this format's names, to a path that does not exist yet.

        Raises:
            CannotHold: The format cannot represent something.
            OSError: The path cannot be written, for example because the disk is full.
            OptionError: zoo only reads this format.
        """
        raise OptionError(f"zoo reads {self.name}, but does not write it; `zoo formats` shows what it writes")

    def narrows(self, ours: str, shape: tuple[int, ...]) -> bool:
        """Return whether a cast to a narrower dtype includes a parameter.

        Args:
            ours: Name of the parameter in zoo.
            shape: Shape of the parameter in zoo.
        """
        return True

    def stored(self, name: str, tensor: LazyTensor, encoding: str) -> LazyTensor:
        """Return the tensor that reading back gives after it was written in one of the format's encodings.

        Args:
            name: Name of the tensor in the format.
            tensor: Tensor before it is encoded.
            encoding: Encoding from the options.
        """
        return tensor

    def nbytes(self, name: str, tensor: LazyTensor, encoding: str) -> int:
        """Return the number of bytes that a tensor takes in the format's files.

        Args:
            name: Name of the tensor in the format.
            tensor: Tensor before it is encoded.
            encoding: Encoding from the options.
        """
        return tensor.nbytes

    def cannot_hold(self, config: GPTConfig) -> list[str]:
        """Return the reasons why the format cannot hold a model with this config; an empty list means that it can."""
        return self.config_map.cannot_hold(config)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on what is left out or changes its meaning when a checkpoint is written in this format.

        Args:
            checkpoint: Checkpoint to be written.
        """
        return self.config_map.forgets(checkpoint.config)

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on what of the vocabulary and the special tokens has no place in this format.

        Args:
            checkpoint: Checkpoint to be written.
        """
        return []

    def to_ours(self, checkpoint: Checkpoint) -> tuple[dict[str, LazyTensor], list[Drop]]:
        """Map a checkpoint's tensors to zoo's names and return the tensors that are dropped.

        Raises:
            CheckpointMismatch: Names, shapes or dtypes differ from those of the config.
        """
        return to_ours(self.table, checkpoint.tensors, checkpoint.config, checkpoint.path)
