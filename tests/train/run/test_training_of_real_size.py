"""Training of the 124M model at its real size, as a user does it, and conversion back to every format."""

import json

import pytest
import torch
from click.testing import CliRunner

import zoo
from zoo.cli.main import main
from zoo.formats.registry import list_formats

SUFFIXES = {"zoo": ".safetensors", "book": ".pth", "nanogpt": ".pt", "llm.c": ".bin", "gguf": ".gguf"}


def call(*arguments):
    """Run the command, which must succeed, and return its output."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_openais_124m_goes_on_and_converts_to_every_format(tmp_path):
    """A TensorFlow checkpoint is trained for three steps; the result is the same in every format."""
    zoo.save(zoo.create("gpt2-small", seed=6), tmp_path / "124M", to="openai")
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("Every effort moves you a little forward, and every step moves you too. " * 40)
    steps = ["--steps", 3, "--context", 64, "--batch-size", 2, "--lr", "1e-4", "--warmup", 0, "--schedule", "constant"]
    call("train", text, "--model", tmp_path / "124M", "--out", run, *steps, "-q")
    losses = [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 10.5 < losses[0] < 11.5
    assert losses[2] < losses[0] - 0.2

    trained = zoo.load(run).state_dict()
    before = zoo.load(tmp_path / "124M").state_dict()
    assert trained.keys() == before.keys()
    assert not torch.equal(trained["blocks.11.mlp.up.weight"], before["blocks.11.mlp.up.weight"])
    names = [info.name for info in list_formats() if info.reads and info.writes]
    assert {"openai", "huggingface", "book", "nanogpt", "mingpt", "llm.c", "gguf", "keras-hub", "flax"} <= set(names)
    for name in names:
        out = tmp_path / f"out{SUFFIXES.get(name, '')}"
        call("convert", "--source", run, "--to", name, "--out", out, "--force")
        again = zoo.load(out, format=name).state_dict()
        assert trained.keys() == again.keys(), name
        assert all(torch.equal(value, again[key]) for key, value in trained.items()), name
