"""Variants of formats that some programs need, and dtypes that a format does not store."""

import gguf_file
import numpy as np
import pytest
import torch
from book_model import BookModel, book_config
from safetensors.torch import load_file

import zoo
from zoo.errors import CannotHold, UnknownName
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3)


@pytest.fixture
def model():
    return zoo.create(CONFIG, seed=11)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_books_classes_without_masks_load_the_variant_without(tmp_path, model):
    """A model that keeps no mask buffers, as the book's with a KV cache, loads the file strictly; zoo reads it too."""
    zoo.save(model, tmp_path / "model.pth", to="book", variant="no-masks")
    peer = BookModel(book_config(CONFIG))
    for block in peer.trf_blocks:
        del block.att.mask

    peer.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True), strict=True)
    assert same_weights(zoo.load(tmp_path / "model.pth", size=CONFIG), model)


def test_names_without_prefix_are_those_of_openais_hub_repositories(tmp_path, model):
    """The names are those of GPT2Model's own state dict, and the directory reads as the usual one does."""
    zoo.save(model, tmp_path / "hf", to="huggingface", variant="no-prefix")
    names = set(load_file(tmp_path / "hf" / "model.safetensors"))

    assert {"wte.weight", "wpe.weight", "h.2.attn.c_attn.weight", "ln_f.bias"} <= names
    assert not any(name.startswith("transformer.") for name in names)
    assert same_weights(zoo.load(tmp_path / "hf"), model)


def test_the_untied_gguf_has_the_head_as_a_tensor_of_its_own(tmp_path, model):
    """output.weight holds the embedding, as gguf's reader sees it; zoo reads the model as tied again."""
    zoo.save(model, tmp_path / "model.gguf", variant="untied")
    tensors = gguf_file.parse((tmp_path / "model.gguf").read_bytes())[2]

    assert tensors["output.weight"] == tensors["token_embd.weight"]
    again = zoo.load(tmp_path / "model.gguf")
    assert again.config.tied and same_weights(again, model)


def test_an_unknown_variant_is_refused_with_those_there_are(tmp_path, model):
    """The message names the format and its variants."""
    with pytest.raises(UnknownName, match=r"variant of gguf 'united': did you mean untied"):
        zoo.save(model, tmp_path / "model.gguf", variant="united")
    with pytest.raises(UnknownName, match=r"variant of llm.c 'untied'"):
        zoo.save(model, tmp_path / "model.bin", to="llm.c", variant="untied")


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_openais_format_gets_narrow_weights_as_float32(tmp_path, model, dtype):
    """OpenAI's graph reads float32 only: narrow weights are widened exactly, and a note says so."""
    tf = pytest.importorskip("tensorflow")
    narrow = model.to(dtype)
    report = zoo.save(narrow, tmp_path / "openai", to="openai")
    reader = tf.train.load_checkpoint(str(tmp_path / "openai"))
    found = reader.get_tensor("model/h2/mlp/c_fc/w")

    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0].T, narrow.state_dict()["blocks.2.mlp.up.weight"].float().numpy())
    assert report.lossless and report.cast == {f"{str(dtype).removeprefix('torch.')} -> float32": 40}
    assert any("becomes float32, exactly" in text for text in report.notes)


def test_a_dtype_that_is_asked_for_is_not_replaced(tmp_path, model):
    """--dtype of a dtype that the format does not store is refused, not widened again."""
    with pytest.raises(CannotHold, match="it does not store bfloat16"):
        zoo.save(model, tmp_path / "openai", to="openai", dtype="bfloat16")
