"""One hash of what a model is, whatever file it lies in.

The hash is the BLAKE3 of a JSON text in ASCII, without spaces and with sorted keys: {"config": {...}, "tensors": {name:
[dtype, shape, hash], ...}}. Names, shapes and orientation are zoo's own (GPTConfig.parameter_shapes), each hash the
BLAKE3 of a tensor's values, little-endian in C order. Rows of padding, from vocab_size on, are left out of embedding
and head; a tied head is no tensor of its own. Of the config only CONFIG_FIELDS count: sizes are in the shapes, and
dropout is no part of what a model computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from zoo.core.stream import WORKERS
from zoo.core.tensors import LazyTensor, Tensors, chunks
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG_FIELDS = ("n_heads", "norm_eps", "activation", "tied")
PADDED = ("tok_emb.weight", "head.weight")


def hash_path(path: Path | str, *, format: str | None = None, size: str | GPTConfig | None = None) -> str:
    """Return the content hash of the checkpoint at a path; zoo.content_hash describes arguments and errors."""
    found, checkpoint = open_path(path, format=format, size=size)
    ours, _ = found.to_ours(checkpoint)
    return hash_tensors(ours, checkpoint.config)


def hash_tensors(ours: Tensors, config: GPTConfig) -> str:
    """Return the content hash of tensors in zoo's names, reading one chunk after the other."""
    with ThreadPoolExecutor(WORKERS) as pool:
        hashes = dict(zip(ours, pool.map(lambda name: _hash(unpadded(name, ours[name], config)), ours), strict=True))
    return combine(hashes, config)


def combine(hashes: Mapping[str, list[Any]], config: GPTConfig) -> str:
    """Return the content hash that tensors of these dtypes, shapes and hashes have together."""
    fields = {name: getattr(config, name) for name in CONFIG_FIELDS}
    text = json.dumps({"config": fields, "tensors": dict(hashes)}, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()


def unpadded(name: str, tensor: LazyTensor, config: GPTConfig) -> LazyTensor:
    """Leave out the rows of padding, which are no tokens."""
    if name not in PADDED or tensor.shape[0] == config.vocab_size:
        return tensor
    return LazyTensor((config.vocab_size, *tensor.shape[1:]), tensor.dtype, lambda: tensor.load()[: config.vocab_size])


def _hash(tensor: LazyTensor) -> list[Any]:
    digest = blake3()
    for chunk in chunks(tensor.load()):
        little = chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)
        digest.update(little.reshape(-1).view("u1"))  # type: ignore[arg-type] # numpy's arrays are buffers
    return [tensor.dtype.name, list(tensor.shape), digest.hexdigest()]
