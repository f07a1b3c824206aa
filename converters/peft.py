"""A LoRA adapter beside its base, read as the base with the adapter merged in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.converters.zoo_file import ZooFile
from zoo.core.tensors import DTYPES, Array, LazyTensor
from zoo.errors import CheckpointMismatch, FormatError
from zoo.formats.adapter_files import CONFIG, Adapter, find_base, is_adapter, read_adapter, weights_of
from zoo.formats.base import Checkpoint, Format, Known
from zoo.formats.config_map import ConfigMap
from zoo.formats.content_hash import RECORD


class Peft(Format):
    """Adapters as PEFT saves them; `zoo convert` and `zoo.load` merge them into the base that they name."""

    name = "peft"
    summary = "LoRA adapter of PEFT: adapter_config.json and its weights; read merged into the base it names"
    table = ZooFile.table
    config_map = ConfigMap(fields=())
    is_directory = True
    writes = False  # a complete model is not an adapter; zoo.train.step.lora.save_adapter writes one

    def sniff(self, path: Path) -> bool:
        """Return whether it is a directory with an adapter, or the adapter's weights."""
        return is_adapter(path)

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the adapter and its base. The base is the only file outside its own directory that a checkpoint may
        name, and it is only read as a checkpoint.
        """
        directory = path if path.is_dir() else path.parent
        adapter = read_adapter(directory)
        base = find_base(directory, adapter)
        from zoo.formats.opening import open_path
        from zoo.formats.registry import detect_format

        if detect_format(base).name == self.name:
            raise FormatError(directory, f"its base {base} is an adapter itself; merge that one first")
        found, checkpoint = open_path(base, size=known)
        ours, drops = found.to_ours(checkpoint)
        for drop in drops:
            if not drop.redundant():
                raise CheckpointMismatch(base, [f"tensor {drop.name} is not {drop.why}"])
        files = (directory / CONFIG, weights_of(directory), *checkpoint.files)
        note = f"the adapter is merged into {base}"
        return replace(
            checkpoint,
            path=directory,
            tensors=merged(ours, adapter, directory),
            prefix="",
            provenance={key: value for key, value in checkpoint.provenance.items() if key != RECORD},
            files=files,
            notes=(*checkpoint.notes, note),
        )


def merged(ours: dict[str, LazyTensor], adapter: Adapter, path: Path) -> dict[str, LazyTensor]:
    """Merge an adapter into a model, lazily: W + scaling * B A, computed in float32 at least, and its biases.

    Args:
        ours: the model's tensors, in zoo's names.
        adapter: whose layers the model must have.
        path: of the adapter, for the message.

    Raises:
        CheckpointMismatch: the model has no such layer or bias, or one of another shape.
    """
    problems = []
    result = dict(ours)
    for layer, (a, b) in adapter.pairs.items():
        weight = ours.get(f"{layer}.weight")
        if weight is None:
            problems.append(f"the base has no layer {layer}")
        elif (b.shape[0], a.shape[1]) != weight.shape:
            problems.append(f"the adapter of {layer} is for {(b.shape[0], a.shape[1])}, the base has {weight.shape}")
        else:
            result[f"{layer}.weight"] = _merge(weight, a, b, adapter.scaling)
    for name, bias in adapter.biases.items():
        if name not in ours or ours[name].shape != bias.shape:
            problems.append(f"the adapter's {name} {bias.shape} does not fit the base")
        else:
            result[name] = bias.astype(ours[name].dtype)
    if problems:
        raise CheckpointMismatch(path, problems)
    return result


def _merge(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scaling: float) -> LazyTensor:
    wide = np.promote_types(np.float32, weight.dtype) if weight.dtype != DTYPES["bfloat16"] else np.dtype(np.float32)

    def load() -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # values may be anything
            delta = b.load().astype(wide) @ a.load().astype(wide)
            return (weight.load().astype(wide) + delta * wide.type(scaling)).astype(weight.dtype)

    return LazyTensor(weight.shape, weight.dtype, load)
