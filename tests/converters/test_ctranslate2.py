"""What zoo writes for CTranslate2 gives our tokens there."""

import json

import pytest
import torch
from small import SMALL, random_ids, small_model

import zoo
from zoo.errors import ZooError

pytestmark = pytest.mark.peers

VARIANTS = {
    "gpt2": {},
    "untied": {"tied": False},
    "without biases": {"bias": False, "qkv_bias": False},
    "exact gelu, other width": {"activation": "gelu", "inner_width": 70, "norm_eps": 1e-3},
}


@pytest.fixture
def peer():
    """The package."""
    return pytest.importorskip("ctranslate2")


def written(directory, changes=None, dtype=None):
    """A small model, and the directory that CTranslate2 loads."""
    model = small_model(SMALL.replace(**(changes or {})), dtype=torch.float32)
    zoo.save(model, directory / "model.safetensors")
    zoo.convert(directory / "model.safetensors", directory / "ct2", to="ctranslate2", dtype=dtype)
    return model, directory / "ct2"


def greedy(peer, directory, ids, n):
    """The most probable continuation of each row."""
    generator = peer.Generator(str(directory), compute_type="default", intra_threads=1)
    prompts = [[f"[PAD{i}]" for i in row] for row in ids.tolist()]
    options = {"max_length": n, "sampling_topk": 1, "include_prompt_in_result": False, "end_token": []}
    return [result.sequences_ids[0] for result in generator.generate_batch(prompts, **options)]


def ours(model, ids, n):
    """The same of zoo."""
    options = {"max_new_tokens": n, "temperature": 0.0, "ignore_eos": True}
    return [[token.id for token in zoo.generate(model, row, **options)] for row in ids.tolist()]


@pytest.mark.parametrize("name", VARIANTS)
def test_ctranslate2_generates_our_tokens(peer, tmp_path, name):
    """Greedily, up to the end of the context, in float32."""
    model, directory = written(tmp_path, VARIANTS[name])
    ids = random_ids(3, 7)
    assert ours(model, ids, 16) == greedy(peer, directory, ids, 16)


def test_scores_agree(peer, tmp_path):
    """The log-probability of every token of a text is ours to 1e-4."""
    model, directory = written(tmp_path)
    ids = random_ids(2, 11)
    generator = peer.Generator(str(directory), intra_threads=1)
    scored = generator.score_batch([[f"[PAD{i}]" for i in row] for row in ids.tolist()])
    expected = model(ids).log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    assert torch.allclose(expected, torch.tensor([each.log_probs for each in scored]), atol=1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.02), ("int8", 0.2)])
def test_smaller_weights_score_nearly_the_same(peer, tmp_path, dtype, bound):
    """float16 and int8 change log-probabilities by no more than a bound; the file shrinks."""
    model, directory = written(tmp_path, dtype=dtype)
    ids = random_ids(2, 11)
    generator = peer.Generator(str(directory), compute_type="float32", intra_threads=1)
    scored = generator.score_batch([[f"[PAD{i}]" for i in row] for row in ids.tolist()])
    expected = model(ids).log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    gap = (expected - torch.tensor([each.log_probs for each in scored])).abs()
    assert 1e-6 < gap.mean() < bound
    assert (directory / "model.bin").stat().st_size < 0.6 * (tmp_path / "model.safetensors").stat().st_size


def test_tokens_are_named_and_the_origin_is_recorded(peer, tmp_path):
    """A model of GPT-2's vocabulary takes its words; config.json has zoo's config and provenance."""
    config = zoo.GPTConfig(context_length=23, width=30, n_heads=5, n_layers=1)
    zoo.save(zoo.create(config, seed=4), tmp_path / "model.safetensors")
    zoo.convert(tmp_path / "model.safetensors", tmp_path / "ct2", to="ctranslate2")
    tokens = json.loads((tmp_path / "ct2" / "vocabulary.json").read_text())
    assert (50257, "Ġthe", "<|endoftext|>") == (len(tokens), tokens[262], tokens[50256])
    record = json.loads((tmp_path / "ct2" / "config.json").read_text())
    assert config.to_dict() == record["zoo_config"]
    assert zoo.content_hash(tmp_path / "model.safetensors") == record["zoo_provenance"]["content_blake3"]
    generator = peer.Generator(str(tmp_path / "ct2"), intra_threads=1)
    (result,) = generator.generate_batch([["Every", "Ġeffort"]], max_length=3, sampling_topk=1)
    assert ["Every", "Ġeffort"] == result.sequences[0][:2]


def test_it_is_recognised_but_not_read(peer, tmp_path):
    """Converting from it is refused by name."""
    _, directory = written(tmp_path)
    with pytest.raises(ZooError, match="zoo writes ctranslate2, but does not read it"):
        zoo.load(directory)
