"""The book's model for fast training, written from its description."""

import pytest
import torch
from nano_model import randomize
from torch import nn

import zoo
from zoo.errors import CheckpointMismatch
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, dropout=0.1)
HEADS = {"n_heads": 5}
IDS = torch.randint(97, (2, 23), generator=torch.Generator().manual_seed(3))


def attend(q, k, v):
    """Causal attention of 5 heads, spelled out; each argument is (B, T, 30)."""
    q, k, v = (x.unflatten(2, (5, 6)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / 6**0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class FastBlock(nn.Module):
    def __init__(self, qkv_bias):
        super().__init__()
        self.norm1, self.norm2, self.att, self.ff = nn.LayerNorm(30), nn.LayerNorm(30), nn.Module(), nn.Module()
        self.att.qkv, self.att.proj = nn.Linear(30, 90, bias=qkv_bias), nn.Linear(30, 30)
        self.ff.layers = nn.Sequential(nn.Linear(30, 120), nn.GELU(approximate="tanh"), nn.Linear(120, 30))

    def forward(self, x):
        x = x + self.att.proj(attend(*self.att.qkv(self.norm1(x)).chunk(3, dim=-1)))
        return x + self.ff.layers(self.norm2(x))


class Fast(nn.Module):
    """The book's model for fast training: fused qkv, nn.LayerNorm, the tanh approximation, padded rows."""

    def __init__(self, rows=97, qkv_bias=False):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(rows, 30), nn.Embedding(23, 30)
        self.trf_blocks = nn.Sequential(*[FastBlock(qkv_bias) for _ in range(3)])
        self.final_norm, self.out_head = nn.LayerNorm(30), nn.Linear(30, rows, bias=False)

    def forward(self, ids):
        x = self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1]))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def assert_same(path, peer, **options):
    with torch.no_grad():
        torch.testing.assert_close(
            zoo.load(path, **options).double()(IDS), peer.double()(IDS)[..., :97], rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_books_model_for_fast_training(tmp_path, qkv_bias):
    """The fused projections and norms under other names give the logits of its model."""
    peer = randomize(Fast(qkv_bias=qkv_bias))
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in peer.state_dict().items()}, tmp_path / "model.pth")
    report = zoo.convert(tmp_path / "model.pth", tmp_path / "out.safetensors", size=HEADS)

    assert (report.source_format, report.lossless) == ("book", True)
    assert_same(tmp_path / "model.pth", peer, size=HEADS)
    assert_same(tmp_path / "out.safetensors", peer)


def test_the_rows_that_pad_gpt2s_vocabulary_are_not_tokens(tmp_path):
    """50,304 rows are 50,257 tokens and padding, said in a note; the user can say that they are tokens."""
    torch.save(randomize(Fast(rows=50304)).state_dict(), tmp_path / "model.pth")
    _, found = open_path(tmp_path / "model.pth", size=HEADS)
    _, said = open_path(tmp_path / "model.pth", size={**HEADS, "vocab_size": 50304})

    assert (found.config.vocab_size, found.config.vocab_rows, found.vocabulary.is_gpt2) == (50257, 50304, True)
    assert any("50,304 rows" in note and '{"vocab_size": 50304}' in note for note in found.notes)
    assert (said.config.vocab_size, said.vocabulary.content) == (50304, {})


def test_two_names_of_one_tensor_are_refused(tmp_path):
    """A file with fused and separate projections of one layer holds no model that zoo could choose."""
    state = Fast().state_dict()
    state["trf_blocks.1.att.W_key.weight"] = torch.zeros(30, 30)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"several tensors mean trf_blocks\.1\.att\.W_key\.weight"):
        open_path(tmp_path / "model.pth", format="book", size=HEADS)
