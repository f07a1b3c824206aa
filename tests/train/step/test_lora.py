"""LoRA: what is trained, what is saved, and that merging does not change the function."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import SMALL, random_ids, small_model

import zoo
from zoo.errors import CheckpointMismatch, FormatError, OptionError
from zoo.train.step.lora import LoRA, add_lora, has_lora, load_adapter, merge_lora, save_adapter


def adapted(dtype=torch.float64, **options):
    """A small model with adapters whose B is not zero any more."""
    model = add_lora(small_model(dtype=dtype), LoRA(**{"rank": 3, "alpha": 7.0, **options}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(generator=generator)
    return model


def test_new_adapters_change_nothing_and_only_they_are_trained():
    """B is initialised to zero, and only adapters have requires_grad: rank * (in + out) values per layer."""
    plain, model = small_model(), add_lora(small_model(), LoRA(rank=3))

    assert torch.equal(plain(random_ids(2, 9)), model(random_ids(2, 9)))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 2 * 3 * ((30 + 90) + (30 + 30) + 2 * (30 + 120)) == trained
    assert has_lora(model)
    assert not has_lora(plain)


def test_the_product_is_scaled_by_alpha_over_rank():
    """A layer computes x W' + b + alpha / rank * x A' B'."""
    model = adapted()
    layer, x = model.blocks[1].mlp.up, torch.randn(4, 30, dtype=torch.float64)
    expected = x @ layer.weight.T + layer.bias + 7 / 3 * (x @ layer.lora_a.T @ layer.lora_b.T)

    assert torch.allclose(expected, layer(x), atol=1e-12, rtol=0)


def test_merging_gives_the_same_logits_and_a_plain_model():
    """Merged in float64 the logits agree to 1e-10, the parameters have their names again, and all can be trained."""
    model, ids = adapted(), random_ids(2, 9)
    before = model(ids)
    merged = merge_lora(model)

    assert torch.allclose(before, merged(ids), atol=1e-10, rtol=0)
    assert list(SMALL.parameter_shapes()) == [name for name, _ in merged.named_parameters()]
    assert all(p.requires_grad for p in merged.parameters())


def test_training_changes_the_adapters_only():
    """After steps of SGD, every frozen value has the same bits and the loss is lower."""
    model = add_lora(small_model(dtype=torch.float32), LoRA(rank=3))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    ids = random_ids(2, 9)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < losses[0]
    assert all(torch.equal(frozen[n], p) for n, p in model.named_parameters() if n in frozen)


def test_dropout_is_of_training_only():
    """With dropout the product differs in training and not in evaluation."""
    model, ids = adapted(dropout=0.5), random_ids(1, 9)
    with torch.random.fork_rng():
        layer, x = model.blocks[0].attn.out, torch.randn(4, 30, dtype=torch.float64)
        quiet = layer(x)
        layer.train()
        assert not torch.equal(quiet, layer(x))
    assert torch.equal(model.eval()(ids), model.eval()(ids))


def test_an_adapter_comes_back_beside_its_base(tmp_path):
    """An adapter that is saved and loaded onto the same base gives the same logits, bit for bit; another base is
    refused.
    """
    model, ids = adapted(torch.float32), random_ids(2, 9)
    save_adapter(model, tmp_path / "adapter")
    again = load_adapter(small_model(dtype=torch.float32), tmp_path / "adapter")

    assert torch.equal(model(ids), again(ids))
    with pytest.raises(CheckpointMismatch, match=r"the adapter of blocks\.0\.attn\.qkv has the shape \(90, 30\)"):
        load_adapter(small_model(SMALL.replace(width=20)), tmp_path / "adapter")
    with pytest.raises(CheckpointMismatch, match=r"has no layer blocks\.1\.attn\.qkv"):
        load_adapter(small_model(SMALL.replace(n_layers=1)), tmp_path / "adapter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_and_converting_merge(tmp_path, dtype):
    """The directory alone is a checkpoint: loaded or converted it is the base with the adapter merged, to the bit."""
    zoo.save(small_model(dtype=dtype), tmp_path / "base.safetensors")
    model = adapted(dtype)
    save_adapter(model, tmp_path / "adapter", base=tmp_path / "base.safetensors")
    loaded = zoo.load(tmp_path / "adapter")
    report = zoo.convert(tmp_path / "adapter", tmp_path / "merged.safetensors")
    merged = merge_lora(model).state_dict()

    assert ("peft", True) == (report.source_format, report.verified)
    for name, value in zoo.load(tmp_path / "merged.safetensors").state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
        # numpy and torch may sum a product of three terms in another order.
        assert torch.allclose(value, merged[name], atol=1e-6 if dtype == torch.float32 else 1e-2), name


def test_saving_a_model_with_adapters_says_what_to_do(tmp_path):
    """zoo.save refuses a model with adapters, because it would not write them."""
    with pytest.raises(OptionError, match="has LoRA adapters.*merge_lora.*save_adapter"):
        zoo.save(adapted(), tmp_path / "x.safetensors")
    with pytest.raises(OptionError, match="no LoRA adapters to save"):
        save_adapter(small_model(), tmp_path / "y")
    with pytest.raises(OptionError, match="adapters already"):
        add_lora(adapted())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank of LoRA must be"),
        ({"alpha": float("nan")}, "alpha of LoRA must be"),
        ({"dropout": 1.0}, "dropout of LoRA must be"),
        ({"targets": ("head",)}, "targets of LoRA must be some of attn.qkv"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    """The error for each setting has its range."""
    with pytest.raises(OptionError, match=message):
        LoRA(**options)


def change(path, **fields):
    """Change fields of an adapter's config."""
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora = True, which zoo does not compute"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 0}, "rank r must be"),
        ({"r": 4}, r"has shape \(3, 30\), but the rank is 4"),
        ({"lora_alpha": "x"}, "lora_alpha must be a number"),
        ({"lora_dropout": 2}, "lora_dropout must be a number from 0 to 1"),
        ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path is n"),
        ({"base_model_name_or_path": "gpt9"}, "its base 'gpt9' is not there"),
        ({"base_model_name_or_path": "."}, "is an adapter itself"),
    ],
)
def test_damaged_and_foreign_adapters_are_refused(tmp_path, fields, message):
    """The error names the file and what is wrong with it."""
    save_adapter(adapted(torch.float32), tmp_path / "adapter")
    change(tmp_path / "adapter", **fields)

    with pytest.raises(FormatError, match=message):
        zoo.load(tmp_path / "adapter")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_peft_reads_what_zoo_writes_and_back(tmp_path):
    """PEFT, over the same base in transformers, gives our logits; zoo reads what PEFT saves, and merges as it does."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = small_model(dtype=torch.float32)
    zoo.save(base, tmp_path / "hf", to="huggingface")
    model, ids = adapted(torch.float32), random_ids(2, 9)
    save_adapter(model, tmp_path / "adapter", base=tmp_path / "hf")

    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(model(ids), theirs(ids).logits, atol=2e-4)
        theirs.save_pretrained(tmp_path / "peft")
        again = load_adapter(base, tmp_path / "peft")
        assert torch.equal(model(ids), again(ids))
        merged = theirs.merge_and_unload().state_dict()["transformer.h.1.mlp.c_fc.weight"].T
    change(tmp_path / "peft", base_model_name_or_path="../hf")
    np.testing.assert_allclose(
        zoo.load(tmp_path / "peft").state_dict()["blocks.1.mlp.up.weight"].numpy(), merged.numpy(), atol=1e-6
    )


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_come_along(tmp_path, bias, suffix):
    """With bias lora_only or all, and in either file, zoo's logits are those of PEFT's model; training refuses it."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = small_model(dtype=torch.float32)
    zoo.save(base, tmp_path / "hf", to="huggingface")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    settings = peft.LoraConfig(r=3, lora_alpha=7, bias=bias, target_modules=["c_attn"], fan_in_fan_out=True)
    theirs = peft.get_peft_model(theirs, settings).eval()
    generator = torch.Generator().manual_seed(5)
    for name, value in theirs.named_parameters():
        if "lora_" in name or "bias" in name:
            value.data = torch.randn(value.shape, generator=generator) / 5
    theirs.save_pretrained(tmp_path / "peft")
    if suffix == ".bin":
        weights = tmp_path / "peft" / "adapter_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    change(tmp_path / "peft", base_model_name_or_path="../hf")
    ids = random_ids(2, 9)

    with torch.no_grad():
        expected = peft.PeftModel.from_pretrained(
            transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf"), tmp_path / "peft"
        )(ids).logits
        found = zoo.load(tmp_path / "peft")(ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(CheckpointMismatch, match="was trained too"):
        load_adapter(small_model(dtype=torch.float32), tmp_path / "peft")


def test_a_base_may_be_a_registered_model(tmp_path):
    """PEFT writes the name that a base was loaded by; zoo finds the model of that name."""
    model = add_lora(zoo.load("stories", dtype="float32"), LoRA(rank=2))
    layer = model.blocks[3].attn.qkv
    layer.lora_b.data = torch.full_like(layer.lora_b, 0.01)
    save_adapter(model, tmp_path / "adapter")
    change(tmp_path / "adapter", base_model_name_or_path="stories")
    expected = merge_lora(model).state_dict()["blocks.3.attn.qkv.weight"]

    found = zoo.load(tmp_path / "adapter", dtype="float32").state_dict()["blocks.3.attn.qkv.weight"]
    base = zoo.load("stories", dtype="float32").state_dict()["blocks.3.attn.qkv.weight"]
    assert torch.allclose(found, expected, atol=1e-2) and not torch.equal(found, base)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "another architecture than GPT-2"),
        ([], "no tensors of an adapter"),
    ],
)
def test_an_adapter_of_another_architecture_is_named(tmp_path, names, message):
    """A Llama's adapter, and one without tensors, are refused for what they are."""
    save_adapter(adapted(torch.float32), tmp_path / "adapter", base=tmp_path)
    save_file({name: torch.ones(3, 30) for name in names}, tmp_path / "adapter" / "adapter_model.safetensors")

    with pytest.raises(FormatError, match=message):
        zoo.load(tmp_path / "adapter")
