"""State dicts that come without a config: how it follows from the shapes, and the records that zoo adds beside them.

The records lie where the projects' own loaders do not look: in the metadata of a safetensors file, as further members
of a torch file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from zoo.containers.files import parse_json
from zoo.containers.safetensors import PROVENANCE, is_safetensors, read_metadata
from zoo.containers.torch.file import read_extra
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import ConfigError, FormatError
from zoo.formats.base import Checkpoint
from zoo.formats.rules import Table, same_tensor
from zoo.formats.vocabulary import assume_vocabulary
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import Vocabulary

CONFIG = "zoo.config"
VOCABULARY = "zoo.vocabulary"
_HEAD_SIZE = 64  # of every published GPT-2


@dataclass(frozen=True)
class Records:
    """What zoo wrote beside the tensors of a file; in other files nothing of it is there."""

    config: GPTConfig | None
    vocabulary: Vocabulary | None
    provenance: dict[str, Any]


def read_records(path: Path) -> Records:
    """Return what zoo added when it wrote a file.

    Raises:
        FormatError: a record is there, but not as zoo writes it.
    """
    metadata = read_metadata(path) if is_safetensors(path) else None

    def record(name: str) -> bytes:
        return (read_extra(path, name) or b"") if metadata is None else metadata.get(name, "").encode()

    config, vocabulary, provenance = (record(name) for name in (CONFIG, VOCABULARY, PROVENANCE))
    try:
        return Records(
            GPTConfig.from_dict(parse_json(config, path, "its zoo.config")) if config else None,
            Vocabulary.from_json(vocabulary.decode("utf-8", "replace"), path) if vocabulary else None,
            parse_json(provenance or b"{}", path, "its provenance"),
        )
    except ConfigError as error:
        raise FormatError(path, f"its zoo.config is impossible: {error}") from error


def text_records(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what to add to the metadata of a safetensors file, beside the provenance, which its writer adds."""
    return {CONFIG: json.dumps(checkpoint.config.to_dict()), VOCABULARY: checkpoint.vocabulary.to_json()}


def torch_records(checkpoint: Checkpoint) -> dict[str, bytes | Callable[[], bytes]]:
    """Return what to add to a torch file; the provenance is to be called last."""
    texts = {name: text.encode() for name, text in text_records(checkpoint).items()}
    return {**texts, PROVENANCE: lambda: json.dumps(dict(checkpoint.provenance), sort_keys=True).encode()}


def open_configless(table: Table, tensors: dict[str, LazyTensor], path: Path, known: GPTConfig | None) -> Checkpoint:
    """Make a checkpoint of a state dict: its config is the one zoo put beside it, or follows from the shapes.

    Raises:
        FormatError: the shapes are not those of a whole GPT-2 in this layout.
    """
    own = read_records(path)
    found, notes = (own.config, []) if own.config else config_from_shapes(table, tensors, known, path)
    vocabulary, guess = (own.vocabulary, []) if own.vocabulary else assume_vocabulary(found)
    return Checkpoint(
        path,
        found,
        tensors,
        vocabulary=vocabulary,
        files=(path,),
        provenance=own.provenance,
        notes=(*notes, *guess),
    )


def config_from_shapes(
    table: Table, tensors: Tensors, known: GPTConfig | None, path: Path
) -> tuple[GPTConfig, list[str]]:
    """Work the config out from shapes, and say what is assumed. A head that equals the embedding counts as tied.

    Args:
        table: of the format; it says what the parameters are called.
        tensors: in the format's names.
        known: what the user says it is; heads, dropout and padding, of which shapes do not tell, come from it.
        path: of the file, for errors.

    Raises:
        FormatError: what tells a size is missing, or the sizes cannot be.
    """
    found = _first_layer(table, tensors)
    embedding, positions, head = (found.get(name) for name in ("tok_emb.weight", "pos_emb.weight", "head.weight"))
    if embedding is None or positions is None or len(embedding.shape) != 2 or not positions.shape:
        raise FormatError(path, "has no embeddings of tokens and positions that tell its sizes")
    rows, width = embedding.shape
    if known is None and (width < _HEAD_SIZE or width % _HEAD_SIZE):
        raise FormatError(path, "the number of heads cannot be told from the shapes; say it with --size")
    inner = found.get("blocks.{i}.mlp.up.bias")
    try:
        config = GPTConfig(
            vocab_size=min(rows, known.vocab_size) if known else rows,
            vocab_rows=rows,
            context_length=positions.shape[0],
            width=width,
            n_heads=known.n_heads if known else width // _HEAD_SIZE,
            n_layers=_count_layers(table, tensors),
            inner_width=inner.shape[0] if inner is not None and inner.shape else 0,
            dropout=known.dropout if known else GPTConfig.dropout,
            qkv_bias="blocks.{i}.attn.qkv.bias" in found,
            tied=head is None or same_tensor(head, embedding),
        )
    except ConfigError as error:
        raise FormatError(path, f"has impossible sizes: {error}") from error
    assumed = f"the file does not say how many heads there are: {config.n_heads} = width / {_HEAD_SIZE} is assumed"
    return config, [] if known else [assumed]


def _names(table: Table, layer: int) -> dict[str, str]:
    """Our parameters -> what one of its layer is called there, or the first of several that make one."""
    first = {rule.ours: rule.theirs if isinstance(rule.theirs, str) else rule.theirs[0] for rule in table.rules}
    return {ours: theirs.replace("{i}", str(layer)) for ours, theirs in first.items()}


def _first_layer(table: Table, tensors: Tensors) -> dict[str, LazyTensor]:
    return {ours: tensors[theirs] for ours, theirs in _names(table, 0).items() if theirs in tensors}


def _count_layers(table: Table, tensors: Tensors) -> int:
    return next(i for i in count() if _names(table, i)["blocks.{i}.norm1.weight"] not in tensors)
