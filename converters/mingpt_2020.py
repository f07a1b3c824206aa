"""minGPT's first layout, of 2020: separate query, key and value, positions (1, T, C), an untied head.

https://github.com/karpathy/minGPT (mingpt/model.py at commit 3ed14b2). The file has no config: it follows from the
shapes, except for the number of heads, which the user gives. zoo only reads it.
"""

from __future__ import annotations

from pathlib import Path

from zoo.converters.shared.configless import open_configless
from zoo.converters.shared.masks import causal_mask, is_causal_mask
from zoo.converters.shared.state_dicts import normalise, open_state_dict, try_state_dict
from zoo.formats.base import Checkpoint, Format, Known
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Derived, Rule, Table, weight_and_bias

_ATTENTION, _OURS = "blocks.{i}.attn", "blocks.{i}"


def _qkv(kind: str, how: str) -> Rule:
    names = tuple(f"{_ATTENTION}.{name}.{kind}" for name in ("query", "key", "value"))
    return Rule(names, f"{_OURS}.attn.qkv.{kind}", how)


class MinGPT2020(Format):
    """A state dict of minGPT's first model."""

    name = "mingpt-2020"
    summary = "minGPT's first layout, of 2020: its model's state dict"
    writes = False
    table = Table(
        (
            Rule("tok_emb.weight", "tok_emb.weight"),
            Rule("pos_emb", "pos_emb.weight", "1 t c -> t c"),
            *weight_and_bias("blocks.{i}.ln1", f"{_OURS}.norm1"),
            _qkv("weight", "n o i -> (n o) i"),
            _qkv("bias", "n o -> (n o)"),
            *weight_and_bias(f"{_ATTENTION}.proj", f"{_OURS}.attn.out"),
            *weight_and_bias("blocks.{i}.ln2", f"{_OURS}.norm2"),
            *weight_and_bias("blocks.{i}.mlp.0", f"{_OURS}.mlp.up"),
            *weight_and_bias("blocks.{i}.mlp.2", f"{_OURS}.mlp.down"),
            *weight_and_bias("ln_f", "final_norm"),
            Rule("head.weight", "head.weight"),
        ),
        derived=(Derived(f"{_ATTENTION}.mask", causal_mask, written=False, accepts=is_causal_mask),),
    )
    config_map = ConfigMap(
        fields=(),
        implied={"inner_width": 0, "qkv_bias": True, "bias": True, "norm_eps": 1e-5, "activation": "gelu"},
    )

    def sniff(self, path: Path) -> bool:
        """Return whether it is a state dict with the names of minGPT's first model."""
        return "blocks.0.attn.key.weight" in try_state_dict(path, self.table)

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file."""
        state = normalise(self.table, *open_state_dict(path), path)
        return open_configless(self.table, state, path, known, self.config_map.implied)
