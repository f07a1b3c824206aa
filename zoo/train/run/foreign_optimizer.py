"""Continue with the optimizer of another program, whose checkpoint a run starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.optim import Optimizer

from zoo.formats.opening import open_path
from zoo.models.arrays import to_torch
from zoo.models.gpt2.model import GPTModel
from zoo.train.run.checkpoint import placed

_BESIDE = ("optimizer.pt", "optimizer.bin")
"""What the Trainer of transformers and accelerate write beside a model."""


def take_over(source: Path, model: GPTModel, optimizer: Optimizer) -> list[str]:
    """Give an optimizer the state of AdamW that a checkpoint has, where its order is known.

    Args:
        source: checkpoint that the model was loaded from.
        model: the model that is trained.
        optimizer: AdamW of all its parameters.

    Returns:
        Notes on what was taken over, or left behind.
    """
    found, checkpoint = open_path(source, size=model.config)
    adam = checkpoint.adam
    if adam is None:
        directory = source if source.is_dir() else source.parent
        notes = [note for note in checkpoint.notes if "optimizer" in note]
        files = [name for name in _BESIDE if (directory / name).is_file()]
        return [*notes, *(f"{name} beside the model is not read: AdamW starts anew" for name in files)]
    first, second = (
        found.to_ours(replace(checkpoint, tensors=moments))[0] for moments in (adam.exp_avg, adam.exp_avg_sq)
    )
    for name, parameter in model.named_parameters():
        moments = {"exp_avg": first[name], "exp_avg_sq": second[name]}
        values = {kind: placed(to_torch(tensor.load()).float(), parameter) for kind, tensor in moments.items()}
        optimizer.state[parameter] = {"step": torch.tensor(float(adam.step)), **values}
    notes = [f"AdamW goes on from the {adam.step:,} steps that its state in {source.name} has made"]
    if (ours := optimizer.param_groups[0]["betas"]) != adam.betas:
        theirs = " ".join(map(str, adam.betas))
        notes.append(f"its betas were {theirs}, and are {ours[0]} {ours[1]} now; --betas {theirs} goes on exactly")
    return notes
