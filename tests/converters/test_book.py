import json
import re

import pytest
import torch
from book_model import BookModel, book_config
from safetensors.torch import load_file, save_file

import zoo
from zoo.errors import CannotHold, CheckpointMismatch, FormatError
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, dropout=0.25)
IDS = torch.tensor([[5, 90, 33, 2, 71, 8, 96]])
SUFFIXES = [".pth", ".safetensors"]


def load_state(path):
    """A state dict as a reader of the book loads it."""
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def save_state(model, path):
    """A state dict as a reader of the book saves it."""
    save_file(model.state_dict(), path) if path.suffix == ".safetensors" else torch.save(model.state_dict(), path)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"qkv_bias": False, "tied": False}])
def test_the_books_model_loads_what_zoo_writes(tmp_path, suffix, changes):
    """The state dict loads strictly, masks and head too, and the logits in float64 agree to 1e-12."""
    model = zoo.create(CONFIG.replace(**changes), seed=7, init="book")
    path = tmp_path / f"model{suffix}"
    zoo.save(model, path, to="book")
    peer = BookModel(book_config(model.config))
    peer.load_state_dict(load_state(path), strict=True)
    with torch.no_grad():
        expected, found = peer.eval().double()(IDS), model.eval().double()(IDS)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_zoo_loads_what_the_books_model_saves(tmp_path, suffix, qkv_bias):
    """A reader's file, which has no config, loads with the config of its shapes when the heads are said."""
    config = CONFIG.replace(qkv_bias=qkv_bias, tied=False)
    peer = BookModel(book_config(config)).eval()
    path = tmp_path / f"model{suffix}"
    save_state(peer, path)
    model = zoo.load(path, size=config)

    assert config == model.config
    with torch.no_grad():
        torch.testing.assert_close(model.double()(IDS), peer.double()(IDS), rtol=0, atol=1e-12)


def test_a_file_without_config_asks_for_the_heads_and_the_advice_works(tmp_path):
    """No shape tells the number of heads: zoo says what to give, and that gives the book's logits."""
    peer = BookModel(book_config(CONFIG)).eval()
    save_state(peer, tmp_path / "model.pth")
    with pytest.raises(FormatError, match=r"""--size '\{"n_heads": N\}'""") as refusal:
        zoo.load(tmp_path / "model.pth")
    fields = json.loads(re.search(r"'(.*)'", str(refusal.value))[1].replace("N", str(CONFIG.n_heads)))
    model = zoo.load(tmp_path / "model.pth", size=fields)

    with torch.no_grad():
        torch.testing.assert_close(model.double()(IDS), peer.double()(IDS), rtol=0, atol=1e-12)


def test_the_heads_of_a_published_size_are_known_and_noted(tmp_path):
    """A model of distilgpt2's sizes has its 12 heads, and a note says where the number comes from."""
    config = GPTConfig(n_layers=6, vocab_size=59, tied=False)
    save_state(BookModel(book_config(config)), tmp_path / "model.pth")
    _, checkpoint = open_path(tmp_path / "model.pth")

    assert checkpoint.config.n_heads == 12
    assert "it has the sizes of distilgpt2: 12" in checkpoint.notes[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_zoo_wrote_comes_back_with_its_config(tmp_path, suffix):
    """Zoo adds its config where the book does not look, so that heads and dropout survive."""
    model = zoo.create(CONFIG, seed=3)
    path = tmp_path / f"model{suffix}"
    zoo.save(model, path, to="book")
    again = zoo.load(path)

    assert (model.config, True) == (again.config, equal(model, again))


def test_a_head_that_is_a_copy_is_tied_and_one_that_is_not_is_kept(tmp_path):
    """Only an out_head that equals the embedding bit for bit makes the model tied."""
    peer = BookModel(book_config(CONFIG))
    peer.out_head.weight = peer.tok_emb.weight
    save_state(peer, tmp_path / "tied.pth")
    state = {name: tensor.clone() for name, tensor in peer.state_dict().items()}
    state["out_head.weight"][96, 29] += 0.5
    torch.save(state, tmp_path / "untied.pth")

    assert zoo.load(tmp_path / "tied.pth", size=CONFIG).config.tied
    untied = zoo.load(tmp_path / "untied.pth", size=CONFIG)
    assert torch.equal(state["out_head.weight"], untied.head.weight)


def test_the_tied_copy_takes_no_second_room_in_a_pth(tmp_path):
    """In a .pth the head shares the embedding's storage, as torch saves tied weights."""
    zoo.save(zoo.create(CONFIG.replace(vocab_size=5000)), tmp_path / "model.pth")

    assert 4 * CONFIG.replace(vocab_size=5000).n_parameters + 60_000 > (tmp_path / "model.pth").stat().st_size


def test_a_mask_that_is_not_causal_is_refused(tmp_path):
    """A mask of other values is not dropped."""
    peer = BookModel(book_config(CONFIG))
    peer.trf_blocks[1].att.mask[2, 1] = 1
    save_state(peer, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"trf_blocks.1.att.mask is not a buffer that follows from the config"):
        zoo.load(tmp_path / "model.pth", size=CONFIG)


def test_a_state_dict_with_a_hole_is_refused(tmp_path):
    """Missing tensors are named."""
    state = BookModel(book_config(CONFIG)).state_dict()
    del state["trf_blocks.2.ff.layers.2.bias"]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"trf_blocks.2.ff.layers.2.bias \(30,\) is missing"):
        zoo.load(tmp_path / "model.pth", size=CONFIG)


def test_another_inner_width_is_refused(tmp_path):
    """The book's feed-forward layer is four times as wide as the model, always."""
    with pytest.raises(CannotHold, match="no place for inner_width 70"):
        zoo.save(zoo.create(CONFIG.replace(inner_width=70)), tmp_path / "model.pth")
