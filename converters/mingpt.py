"""minGPT: the state dict of its GPT, as torch.save(model.state_dict()) in its projects writes it.

https://github.com/karpathy/minGPT (mingpt/model.py). Names are nanoGPT's; weights are (out, in). The causal masks are
in the file, and the head is a tensor of its own, tied or not. The file has no config: it follows from the shapes, but
for the number of heads.
"""

from __future__ import annotations

from pathlib import Path

from zoo.containers.state_dict import read_state_dict
from zoo.containers.torch.file import is_torch_file, write_torch
from zoo.converters.nanogpt import HEAD, MASK, RULES
from zoo.converters.shared.configless import open_configless, torch_records
from zoo.converters.shared.masks import causal_mask
from zoo.errors import ZooError
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Derived, Table
from zoo.models.gpt2.config import GPTConfig


class MinGPT(Format):
    """A state dict of minGPT."""

    name = "mingpt"
    summary = "minGPT: the state dict of its model, with masks and head"
    table = Table(RULES, copies=(HEAD,), derived=(Derived(MASK, causal_mask, written=True),))
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
        try:
            tensors = read_state_dict(path) if is_torch_file(path) else {}
        except ZooError:
            return False
        qkv, mask = (tensors.get(f"transformer.h.0.attn.{name}") for name in ("c_attn.weight", "bias"))
        return qkv is not None and mask is not None and len(qkv.shape) == 2 and qkv.shape[0] == 3 * qkv.shape[1]

    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open the file. Whether the head is tied is seen by comparing it with the embedding."""
        return open_configless(self.table, read_state_dict(path), path, config)

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file; minGPT's model loads it strictly."""
        write_torch(path, dict(checkpoint.tensors), options.on_bytes, torch_records(checkpoint, options.provenance))
