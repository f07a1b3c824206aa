"""Checkpoints of a run while the process that writes them is killed, often."""

import subprocess
import sys

import pytest
from cases import counts

STORM = """
import os, random, signal, sys, time
from pathlib import Path
import torch
import zoo
from zoo.train.run.checkpoint import State, load_model, load_optimizer, prune, read_state, save_checkpoint, sweep
from zoo.hub.runs import checkpoint_path, list_checkpoints

torch.set_num_threads(1)
run, times, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(12)
model = zoo.create(zoo.GPTConfig(vocab_size=997, context_length=23, width=30, n_heads=5, n_layers=2), seed=1)
optimizer = torch.optim.AdamW(model.parameters())
for parameter in model.parameters():
    parameter.grad = torch.ones_like(parameter)
optimizer.step()
save_checkpoint(run, State(step=0), model, optimizer)
began = time.monotonic()
save_checkpoint(run, State(step=1), model, optimizer)
seconds = time.monotonic() - began  # of one
first, killed_while_writing = 0, 0
for _ in range(times):
    child = os.fork()
    if child == 0:
        step = first
        while True:
            step += 1
            save_checkpoint(run, State(step=step), model, optimizer)
            prune(run, keep=2, best_step=0)
    time.sleep(chance.random() * 4 * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed_while_writing += any(path.name.startswith(".") for path in (run / "checkpoints").iterdir())
    for path in list_checkpoints(run):
        step = read_state(path).step
        assert path == checkpoint_path(run, step), path
        first = max(first, step)
        load_optimizer(path, load_model(path), optimizer)
    sweep(run)
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
print(killed_while_writing, first)
"""


@pytest.mark.long
def test_two_hundred_kills_leave_whole_checkpoints(tmp_path):
    """After SIGKILL at 200 random moments of saving, every named checkpoint is intact and has hashes."""
    done = subprocess.run([sys.executable, "-c", STORM, str(tmp_path), "200"], capture_output=True, text=True)
    assert "" == done.stderr

    while_writing, last = map(int, done.stdout.split())
    counts["training checkpoints killed while they were written"] += while_writing
    assert while_writing > 50
    assert last > 20  # that others were saved in between
