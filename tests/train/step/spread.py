"""A training loop in miniature, for tests of zoo.train.step.distributed: run it alone or under torchrun.

python spread.py OUT (ddp | fsdp) STEPS [SHARDED [RESUME]]
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.init import create
from zoo.train.run.sharded_checkpoint import load_sharded, save_sharded
from zoo.train.step.distributed import exchange, full_state, world

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=2, dropout=0.0)


class Loss(torch.nn.Module):
    """The sum of the losses of a process's tokens, divided by the tokens of all."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, n_tokens):
        logits = self.model(ids[:, :-1]).flatten(0, 1)
        return F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum") / n_tokens


def main(out, kind, n_steps, sharded=None, resume=None):
    """Train; the batch is 6 rows, of which two processes get 4 and 2 so that a mean of means would be wrong."""
    torch.set_num_threads(1)
    with world() as here:
        model = create(CONFIG, seed=4).train()
        module = here.wrap(Loss(model), fsdp=kind == "fsdp")
        # A large epsilon: keys' biases have no gradient but rounding, which Adam would make as large as any other.
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, eps=1e-4, fused=True)
        first = 0
        if resume:
            load_sharded(Path(resume), model, optimizer)
            first = 4
        losses = []
        for step in range(first, first + int(n_steps)):
            ids = torch.randint(97, (6, 12), generator=torch.Generator().manual_seed(step))
            mine = ids if here.size == 1 else (ids[:4], ids[4:])[here.rank]
            total = 0.0
            halves = mine.chunk(2)
            for i, half in enumerate(halves):
                with exchange(module, on=i == len(halves) - 1):
                    loss = module(half, 6 * 11)
                    loss.backward()
                total += loss.item()
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            optimizer.step()
            optimizer.zero_grad()
            losses.append([here.sum(total)[0], norm.item()])
        state = full_state(model)
        if sharded:
            Path(sharded).mkdir(exist_ok=True)
            save_sharded(Path(sharded), model, optimizer)
        if here.is_main:
            values = {name: value.double().sum().item() for name, value in state.items()}
            Path(out).write_text(json.dumps([losses, values]))


if __name__ == "__main__":
    main(*sys.argv[1:])
