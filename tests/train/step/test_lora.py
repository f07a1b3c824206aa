"""LoRA: what is trained, what is saved, and that merging does not change the function."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import SMALL, random_ids, small_model

import zoo
from zoo.errors import CheckpointMismatch, FormatError, OptionError
from zoo.hub.model_cache import Cache
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
        (
            {"base_model_name_or_path": "gpt2"},
            "its base 'gpt2' is not there; get it with `zoo download gpt2`, or put its",
        ),
        ({"base_model_name_or_path": "a/b"}, "its base 'a/b' is not there; get it with `zoo download hf:a/b`, or put"),
        ({"base_model_name_or_path": "."}, "is an adapter itself"),
    ],
)
def test_damaged_and_foreign_adapters_are_refused(tmp_path, fields, message):
    """The error names the file and what is wrong with it."""
    save_adapter(adapted(torch.float32), tmp_path / "adapter")
    change(tmp_path / "adapter", **fields)

    with pytest.raises(FormatError, match=message):
        zoo.load(tmp_path / "adapter")


def test_the_base_is_found_by_its_name_in_the_cache(tmp_path, monkeypatch):
    """An adapter of "gpt2", or of its repository on the Hub, is merged into the file that `zoo download` left."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_SOURCES", str(tmp_path / "sources.toml"))
    (tmp_path / "sources.toml").write_text('[test-tiny.huggingface]\nhub = "some/tiny@v1"\n')
    base = zoo.create("test-tiny", seed=3)
    zoo.save(base, tmp_path / "base.safetensors")
    Cache().add("test-tiny", tmp_path / "base.safetensors", {})
    model = add_lora(base, LoRA(rank=3))
    with torch.no_grad():
        model.blocks[0].attn.qkv.lora_b.normal_()
    save_adapter(model, tmp_path / "adapter")

    for name in ("test-tiny", "some/tiny"):
        change(tmp_path / "adapter", base_model_name_or_path=name)
        ids = random_ids(1, 9)
        assert torch.allclose(zoo.load(tmp_path / "adapter")(ids), model.eval()(ids), atol=1e-5)


def test_files_of_other_adapters_are_named(tmp_path):
    """An adapter of another architecture is one line with its first tensor; one without tensors says so."""
    save_adapter(adapted(torch.float32), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({"base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight": torch.zeros(3, 30)}, file)
    with pytest.raises(FormatError, match=r"of another architecture than GPT-2 \(its first tensor is base_model\.mod"):
        zoo.load(tmp_path / "adapter")
    save_file({}, file)
    with pytest.raises(FormatError, match="has no tensors; save the adapter again with PEFT's save_pretrained"):
        zoo.load(tmp_path / "adapter")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
@pytest.mark.parametrize("safe", [True, False])
def test_biases_and_older_files_of_peft(tmp_path, bias, safe):
    """Trained biases replace the base's; adapter_model.bin is read like the safetensors file: PEFT's own logits."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    zoo.save(small_model(dtype=torch.float32), tmp_path / "hf", to="huggingface")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    config = peft.LoraConfig(r=3, target_modules=["c_attn", "c_fc"], bias=bias, fan_in_fan_out=True)
    theirs, ids = peft.get_peft_model(theirs, config).eval(), random_ids(2, 9)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    theirs.save_pretrained(tmp_path / "adapter", safe_serialization=safe)
    change(tmp_path / "adapter", base_model_name_or_path="../hf")
    file = "adapter_model.safetensors" if safe else "adapter_model.bin"

    assert (tmp_path / "adapter" / file).exists()
    with torch.no_grad():
        for path in (tmp_path / "adapter", tmp_path / "adapter" / file):
            assert torch.allclose(zoo.load(path)(ids), theirs(ids).logits, atol=2e-4)
    if bias != "none":
        with pytest.raises(
            FormatError, match="biases of its own, .* merge it with `zoo convert`, and train the result"
        ):
            load_adapter(small_model(), tmp_path / "adapter")
        zoo.convert(tmp_path / "adapter", tmp_path / "merged.safetensors")


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
