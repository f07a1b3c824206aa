"""State dicts as people save them, made with torch and compared with the logits of the model that made them."""

import argparse
import dataclasses
import json
import pathlib
from collections import OrderedDict

import pytest
import torch
from book_model import BookModel
from nano_model import Model, model_args, randomize
from safetensors.torch import save_model
from torch import nn

import zoo
from zoo.errors import CheckpointMismatch, FormatError
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, activation="gelu", dropout=0.0)
BOOK = {"vocab_size": 97, "context_length": 23, "emb_dim": 30, "n_heads": 5, "n_layers": 3}
BOOK |= {"drop_rate": 0.0, "qkv_bias": True}
IDS = torch.randint(97, (2, 23), generator=torch.Generator().manual_seed(3))
HEADS = {"n_heads": 5}


@pytest.fixture
def nano():
    return randomize(Model(**model_args(CONFIG))).eval()


@pytest.fixture
def book():
    return randomize(BookModel(BOOK)).eval()


@dataclasses.dataclass
class GPTSettings:
    n_layer: int = 3
    n_head: int = 5
    n_embd: int = 30
    out: pathlib.Path | None = None


def assert_same(path, peer, size=None, **options):
    """zoo finds the format itself, and computes what the model that was saved computes."""
    model = zoo.load(path, size=size, **options)
    with torch.no_grad():
        torch.testing.assert_close(model.double()(IDS), peer.double()(IDS), rtol=0, atol=1e-11)


PREFIXES = ("", "module.", "_orig_mod.", "model.", "base_model.model.", "_fsdp_wrapped_module.", "module._orig_mod.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["nano", "book"])
def test_prefixes_alone_and_combined(tmp_path, request, kind, prefix):
    """Whatever wraps a model when it is saved, the prefix is removed, and the report names it."""
    peer = request.getfixturevalue(kind)
    torch.save({prefix + name: tensor for name, tensor in peer.state_dict().items()}, tmp_path / "x.pt")

    assert_same(tmp_path / "x.pt", peer, HEADS)
    assert open_path(tmp_path / "x.pt", size=HEADS)[1].prefix == prefix


def test_wrappers_inside_the_names(tmp_path, nano):
    """Blocks that were compiled or wrapped one by one have their prefix in the middle."""
    state = {name.replace("h.1.", "h.1._orig_mod."): tensor for name, tensor in nano.state_dict().items()}
    state = {name.replace("h.2.", "h.2._checkpoint_wrapped_module."): tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "x.pt")

    assert_same(tmp_path / "x.pt", nano, HEADS)


@pytest.mark.parametrize("key", ["model", "module", "state", "state_dict", "model_state_dict", "model_state"])
@pytest.mark.parametrize("kind", ["nano", "book"])
def test_state_dicts_below_a_key(tmp_path, request, kind, key):
    """The optimizer's state and the counters beside the model stay behind, and are named."""
    peer = request.getfixturevalue(kind)
    optimizer = torch.optim.AdamW(peer.parameters())
    peer(IDS).sum().backward()
    optimizer.step()
    tree = {key: peer.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "epoch": 3}
    torch.save(tree, tmp_path / "model_and_optimizer.pth")
    _, checkpoint = open_path(tmp_path / "model_and_optimizer.pth", size=HEADS)

    assert_same(tmp_path / "model_and_optimizer.pth", peer, HEADS)
    assert any("optimizer_state_dict, epoch; that is not part of the model" in note for note in checkpoint.notes)


def trees(state, optimizer):
    """What training libraries put around a state dict, by the name of their file."""
    lightning = {f"model.{name}": tensor for name, tensor in state.items()}
    return {
        "last.ckpt": {  # Lightning
            "epoch": 2,
            "global_step": 70,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": lightning,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "", "best_model_score": None}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": argparse.Namespace(n_head=5, n_embd=30, n_layer=3),
        },
        "mp_rank_00_model_states.pt": {  # DeepSpeed, ZeRO stages 1 and 2
            "module": state,
            "buffer_names": [],
            "optimizer": None,
            "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in state.items())],
            "frozen_param_shapes": None,
            "shared_params": {"lm_head.weight": "transformer.wte.weight"},
            "lr_scheduler": None,
            "dp_world_size": 2,
            "mp_world_size": 1,
            "ds_config": {"zero_optimization": {"stage": 2}},
            "ds_version": "0.15.1",
        },
        "policy.pt": {"step_idx": 19968, "state": state, "metrics": {"loss/eval": 0.6}},  # DPO's reference code
        "pytorch_model.bin": state,  # accelerate's save_state
    }


@pytest.mark.parametrize("name", ["last.ckpt", "mp_rank_00_model_states.pt", "policy.pt", "pytorch_model.bin"])
def test_files_of_training_libraries(tmp_path, nano, name):
    """The model in the files of Lightning, DeepSpeed, DPO and accelerate gives its own logits."""
    optimizer = torch.optim.AdamW(nano.parameters())
    nano(IDS).sum().backward()
    optimizer.step()
    torch.save(trees(nano.state_dict(), optimizer)[name], tmp_path / name)

    assert_same(tmp_path / name, nano, HEADS)
    assert detect_format(tmp_path / name).name == "nanogpt"


@pytest.mark.parametrize(
    "settings",
    [
        argparse.Namespace(num_attention_heads=5, hidden_size=30, num_layers=3),
        GPTSettings(out=pathlib.PosixPath("/out")),
        {"gpt": {"n_heads": 5, "emb_dim": 30}},
    ],
)
def test_the_heads_are_read_from_settings_beside_the_model(tmp_path, book, settings):
    """Hyper-parameters that lie beside the model, of whatever class, tell the number of heads."""
    torch.save({"state_dict": book.state_dict(), "hyper_parameters": settings}, tmp_path / "last.ckpt")

    assert_same(tmp_path / "last.ckpt", book)


def test_settings_of_another_model_do_not_count(tmp_path, book):
    """A number of heads beside another width is not this model's."""
    torch.save({"state_dict": book.state_dict(), "cfg": {"n_heads": 3, "emb_dim": 60}}, tmp_path / "last.ckpt")
    with pytest.raises(FormatError, match="does not say how many attention heads"):
        open_path(tmp_path / "last.ckpt")


def test_a_head_beside_the_model_is_named_and_strict_refuses(tmp_path, nano):
    """A value head is not part of a language model: it stays behind, or nothing is converted."""
    nano.v_head = nn.Linear(30, 1)
    torch.save(nano.state_dict(), tmp_path / "x.pt")
    report = zoo.convert(tmp_path / "x.pt", tmp_path / "out.safetensors", size=HEADS)

    assert_same(tmp_path / "out.safetensors", nano)
    assert any("2 tensors of a head beside the language model (v_head.weight, v_head" in note for note in report.notes)
    with pytest.raises(CheckpointMismatch, match=r"v_head\.weight would be left behind, which strict=True forbids"):
        zoo.convert(tmp_path / "x.pt", tmp_path / "no.safetensors", size=HEADS, strict=True)
    assert not (tmp_path / "no.safetensors").exists()


def test_two_models_in_a_file_are_named(tmp_path, nano):
    """Which of two models is meant only the user knows; saved alone, it loads."""
    state = nano.state_dict()
    both = {f"{who}.{name}": tensor for who in ("policy", "reference") for name, tensor in state.items()}
    torch.save(both, tmp_path / "x.pt")
    with pytest.raises(FormatError, match=r"holds 2 models, with the prefixes 'policy\.', 'reference\.'; save one"):
        open_path(tmp_path / "x.pt", format="nanogpt")
    torch.save({name: tensor for name, tensor in both.items() if name.startswith("policy.")}, tmp_path / "x.pt")

    assert_same(tmp_path / "x.pt", nano, HEADS)


def test_the_empty_tensors_of_zero_3_are_named(tmp_path, nano):
    """A shell of empty tensors is not a damaged checkpoint: DeepSpeed's script fills it."""
    state = {name: torch.empty(0) for name in nano.state_dict()}
    torch.save({"module": state, "dp_world_size": 2}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(FormatError, match=r"ZeRO stage 3 leaves them; run zero_to_fp32\.py"):
        open_path(tmp_path / "mp_rank_00_model_states.pt", format="nanogpt")


def test_safetensors_that_hold_tied_weights_once(tmp_path):
    """save_model keeps one name of two that share memory, here the head's: it is the embedding, too."""
    peer = randomize(BookModel(BOOK)).eval()
    peer.out_head.weight = peer.tok_emb.weight
    save_model(peer, str(tmp_path / "model.safetensors"))
    _, checkpoint = open_path(tmp_path / "model.safetensors", size=HEADS)

    assert checkpoint.config.tied
    assert_same(tmp_path / "model.safetensors", peer, HEADS)


@pytest.mark.parametrize("change", [lambda m: m.bool(), lambda m: m.to(torch.uint8), lambda m: m[:11, :11]])
def test_masks_of_any_dtype_and_length_do_not_block(tmp_path, book, change):
    """A mask computes nothing that the model does not know."""
    state = {name: change(t) if name.endswith("att.mask") else t for name, t in book.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")

    assert_same(tmp_path / "x.pth", book, HEADS)


def test_plain_state_dicts_are_told_apart(tmp_path, nano):
    """Orientation tells nanoGPT's from transformers', and masks tell minGPT's; all have the same names."""
    state = nano.state_dict()
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    theirs = {name: tensor.T.contiguous() if name.endswith(turned) else tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "nano.pt")
    torch.save(theirs, tmp_path / "hf.pkl", _use_new_zipfile_serialization=False)

    assert detect_format(tmp_path / "nano.pt").name == "nanogpt"
    assert detect_format(tmp_path / "hf.pkl").name == "huggingface"
    assert_same(tmp_path / "nano.pt", nano, HEADS)
    assert_same(tmp_path / "hf.pkl", nano, {**HEADS, "activation": "gelu"})


def test_size_takes_json_on_the_command_line_and_in_a_file(tmp_path, nano):
    """The advice for a missing number of heads works both ways."""
    from click.testing import CliRunner

    from zoo.cli.main import main

    torch.save(nano.state_dict(), tmp_path / "x.pt")
    (tmp_path / "size.json").write_text(json.dumps(HEADS))
    for n, size in enumerate(['{"n_heads": 5}', str(tmp_path / "size.json")]):
        command = ["convert", "--source", str(tmp_path / "x.pt"), "--out", str(tmp_path / f"{n}.safetensors")]
        done = CliRunner().invoke(main, [*command, "--size", size])
        assert (done.exit_code, "exact GELU is assumed" in done.output) == (0, True), done.output
        assert_same(tmp_path / f"{n}.safetensors", nano)
