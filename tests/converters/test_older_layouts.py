"""Older and later layouts of the same projects, against models written from each project's description."""

import argparse

import pytest
import torch
from nano_model import randomize
from small import small_model
from torch import nn

import zoo
from zoo.errors import CheckpointMismatch, FormatError
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format
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


class OldBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(30), nn.LayerNorm(30), nn.Module()
        for name in ("key", "query", "value", "proj"):
            setattr(self.attn, name, nn.Linear(30, 30))
        self.attn.register_buffer("mask", torch.ones(23, 23).tril()[None, None])
        self.mlp = nn.Sequential(nn.Linear(30, 120), nn.GELU(), nn.Linear(120, 30), nn.Dropout(0.1))

    def forward(self, x):
        y, attn = self.ln1(x), self.attn
        x = x + attn.proj(attend(attn.query(y), attn.key(y), attn.value(y)))
        return x + self.mlp(self.ln2(x))


class Old(nn.Module):
    """minGPT of 2020: key, query and value apart, positions (1, T, C), the exact GELU, a head of its own."""

    def __init__(self):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(97, 30), nn.Parameter(torch.zeros(1, 23, 30))
        self.blocks = nn.Sequential(*[OldBlock() for _ in range(3)])
        self.ln_f, self.head = nn.LayerNorm(30), nn.Linear(30, 97, bias=False)

    def forward(self, ids):
        return self.head(self.ln_f(self.blocks(self.tok_emb(ids) + self.pos_emb[:, : ids.shape[1]])))


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


@pytest.mark.parametrize("prefix", ["", "module."])
def test_mingpt_of_2020(tmp_path, prefix):
    """The logits are those of its model, with and without a wrapper's prefix, and after a conversion, too."""
    peer = randomize(Old())
    torch.save({prefix + name: tensor for name, tensor in peer.state_dict().items()}, tmp_path / "model.pt")
    report = zoo.convert(tmp_path / "model.pt", tmp_path / "out.safetensors", size=HEADS)

    assert (report.source_format, report.prefix, report.lossless) == ("mingpt", prefix, True)
    assert any("minGPT before July 2022; the exact GELU" in note for note in report.notes)
    assert_same(tmp_path / "model.pt", peer, size=HEADS)
    assert_same(tmp_path / "out.safetensors", peer)


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


def megatron(model, version, key="encoder", attention="self_attention"):
    """The checkpoint of a Megatron-LM before Megatron core, row by row; args as its command line leaves them."""
    ours, layers = model.state_dict(), {}
    row = {
        0.0: lambda n, h, d: 30 * n + 6 * h + d,
        1.0: lambda n, h, d: 18 * h + 3 * d + n,
        2.0: lambda n, h, d: 18 * h + 6 * n + d,
    }
    for i in range(3):
        for kind in ("weight", "bias"):
            fused = ours[f"blocks.{i}.attn.qkv.{kind}"]
            order = torch.empty_like(fused)
            for n in range(3):
                for h in range(5):
                    for d in range(6):
                        order[row[min(version, 2.0)](n, h, d)] = fused[30 * n + 6 * h + d]
            layers |= {
                f"layers.{i}.input_layernorm.{kind}": ours[f"blocks.{i}.norm1.{kind}"],
                f"layers.{i}.{attention}.query_key_value.{kind}": order,
                f"layers.{i}.{attention}.dense.{kind}": ours[f"blocks.{i}.attn.out.{kind}"],
                f"layers.{i}.post_attention_layernorm.{kind}": ours[f"blocks.{i}.norm2.{kind}"],
                f"layers.{i}.mlp.dense_h_to_4h.{kind}": ours[f"blocks.{i}.mlp.up.{kind}"],
                f"layers.{i}.mlp.dense_4h_to_h.{kind}": ours[f"blocks.{i}.mlp.down.{kind}"],
            }
    layers |= {f"final_layernorm.{kind}": ours[f"final_norm.{kind}"] for kind in ("weight", "bias")}
    embedding = {
        "word_embeddings": {"weight": ours["tok_emb.weight"]},
        "position_embeddings": {"weight": ours["pos_emb.weight"]},
    }
    args = argparse.Namespace(num_attention_heads=5, hidden_size=30, num_layers=3, bias_gelu_fusion=True)
    tree = {"model": {"language_model": {"embedding": embedding, key: layers}}, "args": args, "iteration": 9}
    return tree | ({"checkpoint_version": version} if version else {})


@pytest.mark.parametrize("version", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("key", "attention"), [("encoder", "self_attention"), ("transformer", "attention")])
def test_megatron_before_megatron_core(tmp_path, version, key, attention):
    """Each checkpoint_version has its own order of rows; the heads are those of the arguments in the file."""
    model = small_model(CONFIG)
    torch.save(megatron(model, version, key, attention), tmp_path / "model_optim_rng.pt")
    report = zoo.convert(tmp_path / "model_optim_rng.pt", tmp_path / "out.safetensors")

    assert (report.source_format, report.lossless) == ("megatron", True)
    assert_same(tmp_path / "model_optim_rng.pt", model)
    assert_same(tmp_path / "out.safetensors", model)


def test_megatrons_arguments_tell_the_activation(tmp_path):
    """Without the fused kernel and --openai-gelu, Megatron-LM computes GELU exactly."""
    tree = megatron(small_model(CONFIG), 3.0)
    tree["args"].bias_gelu_fusion = False
    torch.save(tree, tmp_path / "exact.pt")
    tree["args"].openai_gelu = True
    torch.save(tree, tmp_path / "tanh.pt")

    assert [open_path(tmp_path / f"{name}.pt")[1].config.activation for name in ("exact", "tanh")] == [
        "gelu",
        "gelu_tanh",
    ]


def test_other_versions_and_parts_of_megatron_are_refused_by_name(tmp_path):
    """An unknown version could have any order of rows; a part of a model is not a model."""
    tree = megatron(small_model(CONFIG), 3.0)
    torch.save(tree | {"checkpoint_version": 4.0}, tmp_path / "new.pt")
    tree["args"].tensor_model_parallel_size = 2
    torch.save(tree, tmp_path / "part.pt")

    assert detect_format(tmp_path / "new.pt").name == "megatron"
    with pytest.raises(FormatError, match=r"has the checkpoint_version 4\.0; zoo knows the order of rows of 0, 1, 2,"):
        open_path(tmp_path / "new.pt")
    with pytest.raises(FormatError, match="is one of 2 tensor-parallel parts of a model; merge them with tools/checkp"):
        open_path(tmp_path / "part.pt")
