"""Training that another program began: its AdamW goes on in zoo, or is named as left behind."""

import copy

import pytest
import torch
from book_model import BookModel, book_config
from nano_model import Model, model_args, randomize

import zoo
from zoo.train.data.corpus import Sources
from zoo.train.run.first_model import Start
from zoo.train.run.start import Run
from zoo.train.run.watcher import Watcher
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World

CONFIG = zoo.GPTConfig(
    vocab_size=50257, context_length=17, width=30, n_heads=5, n_layers=2, dropout=0.0, tied=False, qkv_bias=False
)
TRAIN = TrainConfig(
    steps=1,
    batch_size=1,
    context=17,
    lr=1e-2,
    warmup=0,
    schedule="constant",
    clip=0.0,
    dtype="float32",
    decay="all",
    dropout=0.0,
)
TEXT = " one two three four five six seven eight nine ten red green blue black white cat dog fish"


@pytest.fixture
def text(tmp_path):
    """A text with one window of 17 tokens, so that every program trains on the same batch."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def steps_of(peer, optimizer, n):
    """Train a peer on that window with its own optimizer."""
    ids = torch.tensor([zoo.Tokenizer().encode(TEXT)])
    for _ in range(n):
        optimizer.zero_grad()
        logits = peer(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()


def train(path, text, config=TRAIN, name="run"):
    """A step of zoo from a checkpoint; the trained model, and what the user is told."""
    run, first = Run.begin(
        path.parent / name, config, Sources(train=(str(text),), val_fraction=0.0), Start(model=str(path)), World()
    )
    trainer = run.trainer(World(), Watcher(), first=first)
    trainer.run()
    return trainer.model, run.notes


def assert_close(found, expected):
    """The same weights, but for the keys' bias: its gradient is 0 but for rounding, which AdamW makes large."""
    for name, value in expected.items():
        rows = [*range(30), *range(60, 90)] if name.endswith("c_attn.bias") else slice(None)
        torch.testing.assert_close(
            found[name][rows].float(),
            value[rows].float(),
            rtol=0,
            atol=5e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_the_books_optimizer_goes_on(tmp_path, text):
    """A step of zoo from model_and_optimizer.pth gives the weights that the book's own next step gives."""
    generator = torch.Generator().manual_seed(5)
    peer = BookModel(book_config(CONFIG))
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-2, weight_decay=0.1)
    steps_of(peer, optimizer, 3)
    tree = {"model_state_dict": copy.deepcopy(peer.state_dict()), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(tree | {"config": {"n_heads": 5, "emb_dim": 30}}, tmp_path / "model_and_optimizer.pth")
    model, notes = train(tmp_path / "model_and_optimizer.pth", text, TRAIN.replace(betas=(0.9, 0.999)))
    steps_of(peer, optimizer, 1)
    zoo.save(model, tmp_path / "again.pth", to="book")
    again = torch.load(tmp_path / "again.pth", weights_only=True)

    assert_close(again, peer.state_dict())
    assert notes == ["AdamW goes on from the 3 steps that its state in model_and_optimizer.pth has made"]
    *_, other = train(tmp_path / "model_and_optimizer.pth", text, TRAIN, "second")[1]
    assert other == "its betas were 0.9 0.999, and are 0.9 0.95 now; --betas 0.9 0.999 goes on exactly"


def test_nanogpts_optimizer_goes_on(tmp_path, text):
    """Its two groups number the matrices first; a step of zoo gives the weights of nanoGPT's own next step."""
    config = CONFIG.replace(tied=True, qkv_bias=True, activation="gelu")
    peer = randomize(Model(**model_args(config)), 4)
    optimizer = peer.configure_optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    steps_of(peer, optimizer, 2)
    betas, decay = optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["weight_decay"]
    tree = {"model": copy.deepcopy(peer.state_dict()), "optimizer": optimizer.state_dict(), "iter_num": 2}
    torch.save(tree | {"model_args": model_args(config)}, tmp_path / "ckpt.pt")
    settings = TRAIN.replace(decay="matrices", betas=betas, weight_decay=decay)
    model, notes = train(tmp_path / "ckpt.pt", text, settings)
    steps_of(peer, optimizer, 1)
    zoo.save(model, tmp_path / "again.pt", to="nanogpt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)["model"]

    assert_close(again, peer.state_dict())
    assert any("goes on from the 2 steps" in note for note in notes)


def test_an_optimizer_that_stays_behind_is_named(tmp_path, text):
    """The Trainer of transformers writes optimizer.pt beside a model, in an order that zoo does not know."""
    zoo.save(zoo.create(CONFIG.replace(tied=True), seed=3), tmp_path / "hf", to="huggingface")
    torch.save({"state": {}}, tmp_path / "hf" / "optimizer.pt")
    _, notes = train(tmp_path / "hf", text)

    assert notes == ["optimizer.pt beside the model is not read: AdamW starts anew"]
