"""The model that a run starts with: a checkpoint, or fresh weights."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import torch

from zoo.api.models import load
from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.init import create
from zoo.models.gpt2.model import GPTModel
from zoo.train.step.lora import LoRA, add_lora


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model that a run starts from.

    Attributes:
        model: A checkpoint that zoo.load accepts; "" trains from scratch.
        config: Config of a model to train from scratch.
        init: Initialisation of its weights; see zoo.create.
        lora: Settings of the adapters to train instead of the model.
        fsdp: Whether to shard the parameters among the processes.
        compile: Whether to compile the model with torch.compile.
    """

    model: str = ""
    config: GPTConfig | None = None
    init: str = "gpt2"
    lora: LoRA | None = None
    fsdp: bool = False
    compile: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Start:
        """Build an object from the fields that to_dict returns."""
        config, lora = fields.get("config"), fields.get("lora")
        if lora:
            lora = LoRA(**{**lora, "targets": tuple(lora["targets"])})
        return cls(**{**fields, "config": GPTConfig.from_dict(config) if config else None, "lora": lora})


def make_first_model(start: Start, seed: int) -> tuple[GPTModel, torch.Generator | None]:
    """Return the model that a run starts with, and the generator that drew its weights, if it is new.

    Raises:
        OptionError: there is neither a checkpoint nor a config.
    """
    if start.model:
        # Updates are too small for the eight bits of bfloat16, so half-precision files are trained in float32.
        model, generator = load(start.model, dtype="float32"), None
    elif start.config is not None:
        generator = torch.Generator().manual_seed(seed)
        model = create(start.config, seed=generator, init=start.init)  # type: ignore[arg-type]
    else:
        raise OptionError("there is no model to train; give one to fine-tune, or a config to train from scratch")
    if start.lora is not None:
        add_lora(model, start.lora)
    return model, generator
