"""minGPT's first layout, saved by a model written in the test: separate q, k and v, a free head."""

import math

import pytest
import torch
from small import random_ids
from torch import nn
from torch.nn import functional

import zoo
from zoo.errors import FormatError, OptionError
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(
    vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, tied=False, activation="gelu", dropout=0.0
)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.key, self.query, self.value, self.proj = (nn.Linear(30, 30) for _ in range(4))
        self.register_buffer("mask", torch.tril(torch.ones(23, 23))[None, None])

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (part(x).view(b, t, 5, 6).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-2, -1) / math.sqrt(6)).masked_fill(self.mask[:, :, :t, :t] == 0, -math.inf)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(30), nn.LayerNorm(30), Attention()
        self.mlp = nn.Sequential(nn.Linear(30, 120), nn.GELU(), nn.Linear(120, 30), nn.Dropout(0.1))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(97, 30), nn.Parameter(torch.zeros(1, 23, 30))
        self.blocks, self.ln_f = nn.Sequential(*(Block() for _ in range(3))), nn.LayerNorm(30)
        self.head = nn.Linear(30, 97, bias=False)

    def forward(self, ids):
        x = self.blocks(self.tok_emb(ids) + self.pos_emb[:, : ids.shape[1]])
        return functional.linear(self.ln_f(x), self.head.weight)


@pytest.fixture
def peer():
    generator = torch.Generator().manual_seed(4)
    model = Model().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def test_the_first_mingpts_state_dict_gives_its_logits(tmp_path, peer):
    """The file is recognised, and zoo's logits in float64 are the model's; the masks are dropped."""
    torch.save(peer.state_dict(), tmp_path / "gpt.pt")
    model = zoo.load(tmp_path / "gpt.pt", size=CONFIG)
    ids = random_ids(2, 23)

    assert model.config == CONFIG
    with torch.no_grad():
        torch.testing.assert_close(model.double()(ids), peer.double()(ids), rtol=0, atol=1e-11)
    report = zoo.convert(tmp_path / "gpt.pt", tmp_path / "gpt.safetensors", size=CONFIG)
    assert report.source_format == "mingpt-2020" and report.lossless and len(report.dropped) == 3


def test_heads_are_asked_for(tmp_path, peer):
    """No shape tells the number of heads, and the layout is only read."""
    torch.save(peer.state_dict(), tmp_path / "gpt.pt")

    with pytest.raises(FormatError, match="does not say how many attention heads"):
        open_path(tmp_path / "gpt.pt")
    with pytest.raises(OptionError, match="reads mingpt-2020, but does not write it"):
        zoo.convert(tmp_path / "gpt.pt", tmp_path / "x.pt", to="mingpt-2020", size=CONFIG)
