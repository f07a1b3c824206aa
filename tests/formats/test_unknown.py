import argparse

import pytest
import torch
from nano_model import Model, randomize
from safetensors.torch import save_file

import zoo
from zoo.errors import FormatError
from zoo.formats.opening import open_path

ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 30, "block_size": 23, "vocab_size": 97}


def refusal(path, **options):
    with pytest.raises(FormatError) as refused:
        open_path(path, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_safetensors_file_of_another_model_says_what_it_is(tmp_path):
    """Container, number and names of the tensors tell a user what was downloaded."""
    tensors = {f"gpt_neox.layers.{i}.attention.dense.weight": torch.ones(3, 4) for i in range(9)}
    save_file(tensors, tmp_path / "model.safetensors")

    said = refusal(tmp_path / "model.safetensors")
    assert "is a safetensors file with 9 tensors (gpt_neox.layers.0.attention.dense.weight, " in said
    assert "in a layout that zoo does not know; `zoo formats` shows all formats" in said


def test_a_torch_file_without_tensors_says_what_it_holds(tmp_path):
    """The settings of a training run are not weights."""
    torch.save({"lr": 0.1, "args": argparse.Namespace(n=1)}, tmp_path / "training_args.bin")

    assert "is a torch file without tensors (a dict of lr, args)" in refusal(tmp_path / "training_args.bin")


def test_the_nearest_format_says_what_it_objects_to(tmp_path):
    """The error for a missing tensor names it, with and without --from; with the tensor, the model loads."""
    state = randomize(Model(**ARGS)).state_dict()
    lost = state.pop("transformer.h.0.attn.c_attn.weight")
    torch.save(state, tmp_path / "x.pt")
    size = {"n_heads": 3}

    said = refusal(tmp_path / "x.pt")
    assert "the nearest format, " in said
    with pytest.raises(FormatError, match=r"transformer\.h\.0\.attn\.c_attn\.weight \(90, 30\) is missing"):
        zoo.load(tmp_path / "x.pt", format="nanogpt", size=size)
    torch.save({**state, "transformer.h.0.attn.c_attn.weight": lost}, tmp_path / "x.pt")
    assert zoo.load(tmp_path / "x.pt", size=size).config.n_layers == 2


def test_a_directory_of_checkpoints_names_them_and_each_loads(tmp_path):
    """The output of a training run has its checkpoints below; the advice to name one works."""
    for step in (500, 1000):
        zoo.save(zoo.create("test-tiny", seed=step), tmp_path / f"checkpoint-{step}", to="huggingface")
    (tmp_path / "trainer_state.json").write_text("{}")

    assert "(checkpoint-1000, checkpoint-500); give the path of one of them" in refusal(tmp_path)
    assert zoo.load(tmp_path / "checkpoint-500").config.width == 48


def test_an_out_directory_of_nanogpt_is_its_checkpoint(tmp_path):
    """train.py writes out/ckpt.pt, and users name the directory."""
    model = zoo.create("test-tiny", seed=3)
    (tmp_path / "out").mkdir()
    zoo.save(model, tmp_path / "out" / "ckpt.pt")

    assert torch.equal(zoo.load(tmp_path / "out").tok_emb.weight, model.tok_emb.weight)
