"""Text samples of a model during training."""

from __future__ import annotations

import copy

from torch import nn

from zoo.api.text import complete
from zoo.models.gpt2.model import GPTModel
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World, full_state


class Samples:
    """Generates the samples of a run, also from a sharded model."""

    def __init__(self, model: GPTModel, config: TrainConfig, here: World, *, is_shared: bool) -> None:
        """Store what is needed, before World.wrap changes the model.

        Args:
            model: Model to be trained.
            config: Settings of the samples.
            here: Group of processes.
            is_shared: Whether the parameters are sharded among them.
        """
        self._config, self._here = config, here
        self._empty = _without_values(model) if is_shared and config.sample_every else None

    def write(self, model: GPTModel) -> str:
        """Return the prompt with its continuation in the main process, "" in others. All processes must call it.

        Sharded parameters are gathered in the main process's memory first.
        """
        if self._empty is not None:
            state = full_state(model)
            if self._here.is_main:
                self._empty.load_state_dict(state, assign=True)
                model = self._empty
        if not self._here.is_main:
            return ""
        config = self._config
        options = {"max_new_tokens": config.sample_tokens, "temperature": 0.0, "ignore_eos": True}
        return config.sample_prompt + complete(model, config.sample_prompt, **options)  # type: ignore[arg-type]


def _without_values(model: GPTModel) -> GPTModel:
    """Copy a model without its values: the parameters are on the meta device."""
    parameters = {id(each): nn.Parameter(each.to("meta"), requires_grad=False) for each in model.parameters()}
    return copy.deepcopy(model, parameters)
