"""minGPT: the state dict of its GPT, as torch.save(model.state_dict()) in its projects writes it.

https://github.com/karpathy/minGPT (mingpt/model.py). Names are nanoGPT's; weights are (out, in). The causal masks are
in the file, and the head is a tensor of its own, tied or not. The file has no config: it follows from the shapes,
except for the number of heads, which is in the config.json that minGPT's projects write beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.containers.files import read_json
from zoo.containers.torch.file import write_torch
from zoo.converters.nanogpt import HEAD, MASK, RULES
from zoo.converters.shared.configless import open_configless, torch_records
from zoo.converters.shared.masks import causal_mask, is_causal_mask
from zoo.converters.shared.state_dicts import normalise, open_state_dict, try_state_dict
from zoo.core.paths import is_there
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Derived, Table
from zoo.formats.shapes import sizes_of

# Layers, heads and width by model_type, as in minGPT's GPT.__init__.
_MODELS = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}


class MinGPT(Format):
    """A state dict of minGPT."""

    name = "mingpt"
    summary = "minGPT: the state dict of its model, with masks and head"
    shares = True
    table = Table(RULES, copies=(HEAD,), derived=(Derived(MASK, causal_mask, written=True, accepts=is_causal_mask),))
    config_map = ConfigMap(
        fields=(),
        implied={
            "inner_width": 0,
            "qkv_bias": True,
            "bias": True,
            "norm_eps": 1e-5,
            "activation": "gelu_tanh",
        },
    )

    def sniff(self, path: Path) -> bool:
        """Whether it is a state dict with nanoGPT's names and masks. Hugging Face's has the same names, transposed."""
        tensors = try_state_dict(path, self.table)
        qkv, mask = (tensors.get(f"transformer.h.0.attn.{name}") for name in ("c_attn.weight", "bias"))
        if qkv is None or mask is None or len(qkv.shape) != 2 or qkv.shape[0] != 3 * qkv.shape[1]:
            return False
        return "model_args" not in open_state_dict(path)[1]  # nanoGPT saved masks, too, before torch 2

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file. Whether the head is tied is seen by comparing it with the embedding."""
        state = normalise(self.table, *open_state_dict(path), path)
        found, file = _read_heads(path.parent / "config.json", sizes_of(self.table, state.tensors))
        opened = open_configless(self.table, state, path, {**found, **(known or {})}, self.config_map.implied)
        return replace(opened, files=(*opened.files, *file))

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file; minGPT's model loads it strictly."""
        write_torch(path, dict(checkpoint.tensors), options.on_bytes, torch_records(checkpoint, options.provenance))


def _read_heads(file: Path, sizes: Mapping[str, int]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return the number of heads in the config.json of minGPT's projects, and the file, if it describes this model.

    Its `model` names one of minGPT's models, or gives the sizes.
    """
    if not is_there(file):
        return {}, ()
    model = read_json(file).get("model")
    if not isinstance(model, dict):
        return {}, ()
    keys = ("n_layer", "n_head", "n_embd")
    layers, heads, width = _MODELS.get(str(model.get("model_type")), tuple(model.get(key) for key in keys))
    if (layers, width) != (sizes.get("n_layers"), sizes.get("width")) or type(heads) is not int:
        return {}, ()
    return {"n_heads": heads}, (file,)
