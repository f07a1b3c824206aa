"""State dicts without a config: how the config follows from the shapes, and the records that zoo adds.

The records lie where the projects' own loaders do not look: in the metadata of a safetensors file, as further members
of a torch file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.containers.files import parse_json
from zoo.containers.safetensors import PROVENANCE, is_safetensors, read_metadata
from zoo.containers.torch.file import read_extra
from zoo.converters.shared.state_dicts import StateDict, fields_beside
from zoo.core.tensors import Tensors
from zoo.errors import ConfigError, FormatError
from zoo.formats.base import Checkpoint, Known
from zoo.formats.mapping import same_tensor
from zoo.formats.rules import Table
from zoo.formats.shapes import contradiction, first_layer, sizes_of
from zoo.formats.vocabulary_notes import assume_vocabulary
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import get_config, list_models
from zoo.text.gpt2 import GPT2_N_TOKENS
from zoo.text.vocabulary import Vocabulary

PADDED_ROWS = 50304
"""GPT-2's 50,257 tokens rounded up to a multiple of 64, as many scripts do."""

_PADDED = (
    f"of the {PADDED_ROWS:,} rows, {GPT2_N_TOKENS:,} are taken as GPT-2's tokens and the others as padding; if all are "
    f"""tokens, say --size '{{"vocab_size": {PADDED_ROWS}}}'"""
)

CONFIG = "zoo.config"
VOCABULARY = "zoo.vocabulary"


@dataclass(frozen=True)
class Records:
    """The records that zoo wrote beside the tensors; all are missing in files of other programs."""

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


def torch_records(
    checkpoint: Checkpoint, provenance: Callable[[], dict[str, Any]]
) -> dict[str, bytes | Callable[[], bytes]]:
    """Return what to add to a torch file; the provenance is to be called after the tensors are written."""
    texts = {name: text.encode() for name, text in text_records(checkpoint).items()}
    return {**texts, PROVENANCE: lambda: json.dumps(provenance(), sort_keys=True).encode()}


def open_configless(table: Table, state: StateDict, path: Path, known: Known, implied: Mapping[str, Any]) -> Checkpoint:
    """Make a checkpoint of a state dict: its config is the one zoo put beside it, or follows from the shapes.

    Args:
        table: of the format.
        state: in the format's names.
        path: of the file.
        known: fields of the config that the user gave.
        implied: fields that are the same for every model of the format.

    Raises:
        FormatError: the shapes are not those of a complete GPT-2 in this layout, or leave the number of heads open.
    """
    own = read_records(path)
    beside = fields_beside(state.beside, sizes_of(table, state.tensors))
    fields = {**beside, **(known or {})}
    found, notes = (own.config, []) if own.config else config_from_shapes(table, state.tensors, path, fields, implied)
    return checkpoint_of(state, path, found, own, notes)


def checkpoint_of(state: StateDict, path: Path, config: GPTConfig, own: Records, notes: Sequence[str]) -> Checkpoint:
    """Return the checkpoint of a state dict, with the vocabulary and the provenance that zoo put beside it."""
    vocabulary, guess = (own.vocabulary, []) if own.vocabulary else assume_vocabulary(config)
    return Checkpoint(
        path,
        config,
        state.tensors,
        prefix=state.prefix,
        vocabulary=vocabulary,
        files=(path,),
        provenance=own.provenance,
        notes=(*notes, *state.notes, *guess),
        left_behind=state.left_behind,
    )


def config_from_shapes(
    table: Table, tensors: Tensors, path: Path, known: Known, implied: Mapping[str, Any]
) -> tuple[GPTConfig, list[str]]:
    """Derive the config from shapes; return it, and notes on fields that shapes do not determine.

    A head that equals the embedding counts as tied. Arguments are those of open_configless.

    Raises:
        FormatError: a tensor that determines a size is missing, or the sizes are impossible.
        ConfigError: the user gave other sizes.
    """
    known = known or {}
    sizes, found = sizes_of(table, tensors), first_layer(table, tensors)
    if not {"vocab_rows", "context_length"} <= set(sizes):
        raise FormatError(path, "has no embeddings of tokens and positions that tell its sizes")
    told = {name: value for name, value in sizes.items() if name in ("width", "n_layers", "context_length")}
    if wrong := contradiction(known, told):
        raise ConfigError(f"{path} is not the model of that size: {wrong}")
    n_heads, notes = _heads(sizes, known, path)
    head, rows = found.get("head.weight"), sizes["vocab_rows"]
    tokens = known.get("vocab_size", rows)
    if rows == PADDED_ROWS and "vocab_size" not in known:
        tokens = GPT2_N_TOKENS
        notes.append(_PADDED)
    fields = {
        **{name: known[name] for name in ("dropout", "activation", "norm_eps") if name in known},
        **{name: value for name, value in implied.items() if name != "vocab_rows" or value},
        **sizes,
        "n_heads": n_heads,
        "vocab_size": min(rows, tokens),
        "qkv_bias": "blocks.{i}.attn.qkv.bias" in found,
        "bias": "blocks.{i}.norm1.bias" in found,
        "tied": head is None or same_tensor(head, found["tok_emb.weight"]),
    }
    try:
        return GPTConfig.from_dict(fields), notes
    except ConfigError as error:
        raise FormatError(path, f"has impossible sizes: {error}") from error


def _heads(sizes: Mapping[str, int], known: Mapping[str, Any], path: Path) -> tuple[int, list[str]]:
    """Return the number of heads that the user says, or that the published model of these sizes has.

    Raises:
        FormatError: there is no such model. A head of 64 channels would be a guess, and a wrong one computes nonsense.
    """
    if "n_heads" in known:
        return int(known["n_heads"]), []
    told = {name: value for name, value in sizes.items() if name != "vocab_rows"}
    for name in list_models("*gpt2*"):
        if not contradiction(get_config(name).to_dict(), told):
            n_heads = get_config(name).n_heads
            return n_heads, [f"the file does not say how many heads there are; it has the sizes of {name}: {n_heads}"]
    advice = """say it with --size '{"n_heads": N}'"""
    problem = f"does not say how many attention heads the model has (its width is {sizes['width']})"
    raise FormatError(path, f"{problem}; {advice}")
