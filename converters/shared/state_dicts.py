"""State dicts as people save them: below a key of a larger dict, with prefixes, heads and copies beside the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.containers.safetensors import is_safetensors, read_safetensors
from zoo.containers.torch.file import is_torch_file, read_torch
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import CheckpointMismatch, FormatError, ZooError
from zoo.formats.rules import Table

# Where training scripts put the model, the commonest first.
_MODEL_KEYS = ("model", "module", "model_state_dict", "state_dict", "model_state", "state")
# What wrappers of torch put into names: torch.compile, FSDP and activation checkpointing.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_HEAD = re.compile(r".*(head|score|classifier|qa_outputs|reward|value).*")
_SHOWN = 4

Opener = Callable[[Path], tuple[dict[str, LazyTensor], dict[str, Any]]]
"""What opens the tensors of a file, and what lies beside them."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of one model in its format's names.

    Attributes:
        tensors: by name, without prefix.
        prefix: that stood before the names.
        beside: other entries of the file, such as an optimizer's state.
        left_behind: names of tensors that belong to the file's model, but not to a language model.
        notes: a sentence for everything that was left behind or renamed.
    """

    tensors: dict[str, LazyTensor]
    prefix: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)
    left_behind: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_state_dict(path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Open the tensors of a file, at the top or below a key; return them, and the other entries.

    Raises:
        FormatError: it holds no state dict.
    """
    if path.suffix == ".safetensors" or is_safetensors(path):
        return read_safetensors(path)[0], {}
    return find_state_dict(read_torch(path), path)


def find_state_dict(tree: Any, path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Find the state dict in the content of a torch file; return it, and the other entries.

    Raises:
        FormatError: there is none.
    """
    beside: dict[str, Any] = {}
    while isinstance(tree, dict):
        key = next((key for key in _MODEL_KEYS if isinstance(tree.get(key), dict) and tree[key]), None)
        if key is None:
            break
        beside |= {str(name): value for name, value in tree.items() if name != key}
        tree = tree[key]
    if not isinstance(tree, dict):
        raise FormatError(path, f"holds a {type(tree).__name__}, not a dict of tensors")
    tensors = {name: value for name, value in tree.items() if not str(name).endswith("_extra_state")}
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, LazyTensor):
            raise FormatError(path, f"holds {name!r}, which is not a tensor, so it is not a plain state dict")
    empty = [name for name, tensor in tensors.items() if tensor.shape == (0,)]
    if len(empty) > len(tensors) // 2:
        problem = f"has empty tensors (such as {empty[0]}), as DeepSpeed's ZeRO stage 3 leaves them"
        raise FormatError(path, f"{problem}; run zero_to_fp32.py, which lies beside it, and give what that writes")
    return tensors, beside


def try_state_dict(path: Path, table: Table, opened: Opener = open_state_dict) -> dict[str, LazyTensor]:
    """Return the normalised tensors of a file, or none where it holds no state dict of this layout."""
    try:
        if not (is_safetensors(path) or is_torch_file(path)):
            return {}
        return normalise(table, *opened(path), path).tensors
    except ZooError:
        return {}


def normalise(table: Table, tensors: Tensors, beside: Mapping[str, Any], path: Path) -> StateDict:
    """Remove prefixes, name the head and the embedding as the table does, and set other heads aside.

    Raises:
        FormatError: there are several models in it.
        CheckpointMismatch: two tensors get the same name.
    """
    embedding, positions, head = (_theirs(table, name) for name in ("tok_emb.weight", "pos_emb.weight", "head.weight"))
    prefix = _find_prefix(tensors, positions, path)
    clean = _WRAPPERS.sub("", prefix)
    named: dict[str, LazyTensor] = {}
    outside: list[str] = []
    for raw, tensor in tensors.items():
        full = _WRAPPERS.sub("", raw)
        name = _strip(full, clean)
        if clean and not full.startswith(clean):
            outside.append(name)
        if name in named:
            raise CheckpointMismatch(path, [f"tensor {raw} and another one both mean {name}"])
        named[name] = tensor
    notes = _notes_beside(beside)
    named = {head if name == "lm_head.decoder.weight" else name: tensor for name, tensor in named.items()}
    if embedding not in named and head in named:
        named = {embedding: named[head], **{name: tensor for name, tensor in named.items() if name != head}}
        notes.append(f"the embedding is stored under the head's name {head} only (tied)")
    left = _heads(table, named, outside, head)
    if left:
        shown = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        notes.append(f"left behind: {len(left)} tensors of a head beside the language model ({shown})")
    kept = {name: tensor for name, tensor in named.items() if name not in left}
    return StateDict(kept, prefix, beside, tuple(left), tuple(notes))


def _theirs(table: Table, ours: str) -> str:
    return next((str(rule.theirs) for rule in table.rules if rule.ours == ours), "")


def _find_prefix(tensors: Tensors, anchor: str, path: Path) -> str:
    """Return what stands before the name of the position embedding, which every layout has once."""
    found = sorted({name.removesuffix(anchor) for name in tensors if name == anchor or name.endswith(f".{anchor}")})
    if len(found) > 1:
        models = ", ".join(map(repr, found))
        raise FormatError(path, f"holds {len(found)} models, with the prefixes {models}; save one of them alone")
    return found[0] if found else ""


def _strip(name: str, prefix: str) -> str:
    """Remove the longest part of the prefix, up to a dot, that a name starts with: heads have a shorter prefix."""
    parts = prefix.split(".")[:-1]
    for n in range(len(parts), 0, -1):
        start = ".".join(parts[:n]) + "."
        if name.startswith(start):
            return name.removeprefix(start)
    return name


def _heads(table: Table, named: Tensors, outside: list[str], head: str) -> list[str]:
    """List tensors outside the model and heads other than the language model's."""
    roots = {str(name).split(".")[0] for rule in table.rules for name in _tuple(rule.theirs)}
    buffers = {buffer.name.split(".")[0] for buffer in table.derived}
    beside = [name for name in named if name.split(".")[0] not in roots | buffers and name != head]
    return [name for name in beside if name in outside or _HEAD.fullmatch(name.split(".")[0])]


def _tuple(theirs: str | tuple[str, ...]) -> tuple[str, ...]:
    return (theirs,) if isinstance(theirs, str) else theirs


def _notes_beside(beside: Mapping[str, Any]) -> list[str]:
    if not beside:
        return []
    shown = ", ".join(list(beside)[:_SHOWN]) + (", ..." if len(beside) > _SHOWN else "")
    return [f"the file also has {shown}; that is not part of the model and stays behind"]


def fields_beside(beside: Any, sizes: Mapping[str, int], depth: int = 3) -> dict[str, Any]:
    """Find the number of heads among hyper-parameters that lie beside a model of these sizes.

    A mapping counts if it has the number of heads under one of the usual names, and the width and the number of layers
    of the model, where it has these.
    """
    if not isinstance(beside, Mapping) or depth == 0:
        return {}
    heads = _number(beside, ("n_head", "n_heads", "num_heads", "num_attention_heads"))
    width = _number(beside, ("n_embd", "emb_dim", "d_model", "hidden_size"))
    layers = _number(beside, ("n_layer", "n_layers", "num_layers", "num_hidden_layers"))
    if heads and (width or layers) and width in (0, sizes.get("width")) and layers in (0, sizes.get("n_layers")):
        return {"n_heads": heads}
    found = (fields_beside(value, sizes, depth - 1) for value in beside.values())
    return next((fields for fields in found if fields), {})


def _number(mapping: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    return next((mapping[key] for key in keys if type(mapping.get(key)) is int), 0)
