"""The model computes GPT-2: against the numpy oracle, the published sizes and the book's figures."""

import math

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from small import SMALL, random_ids, small_model

from zoo.api.text import generate
from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.init import create
from zoo.models.gpt2.kv_cache import KVCache
from zoo.models.gpt2.model import GPTModel
from zoo.models.registry import get_config, list_models
from zoo.text.tokenizer import Tokenizer

VARIANTS = {
    "as GPT-2": {},
    "untied": {"tied": False},
    "no query, key and value bias": {"qkv_bias": False},
    "no bias": {"bias": False},
    "no bias at all, untied": {"bias": False, "qkv_bias": False, "tied": False},
    "exact GELU": {"activation": "gelu"},
    "narrow MLP": {"inner_width": 37},
    "padded vocabulary": {"vocab_rows": 104},
    "padded and untied": {"vocab_rows": 104, "tied": False},
    "large epsilon": {"norm_eps": 0.1},
    "one head, three layers": {"n_heads": 1, "n_layers": 3},
}


def oracle_logits(model, ids):
    """The oracle's logits for each row, (B, T, V)."""
    config = model.config
    params = {name: value.double().numpy() for name, value in model.state_dict().items()}
    rows = [
        oracle.logits(
            params,
            row.tolist(),
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            norm_eps=config.norm_eps,
            exact_gelu=config.activation == "gelu",
        )
        for row in ids
    ]
    return np.stack(rows)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
class TestOracle:
    def test_float64(self, changes):
        """Logits equal the oracle's to 1e-12 of values up to 10: nothing but rounding differs."""
        model = small_model(SMALL.replace(**changes))
        ids = random_ids(2, 23)
        got = model(ids).detach().numpy()

        assert got.std() > 0.5
        np.testing.assert_allclose(got, oracle_logits(model, ids), rtol=0, atol=1e-12)

    def test_float32(self, changes):
        """In float32 they equal to 5e-5: an epsilon of 1.2e-7, values up to 10, sums of up to 120 terms."""
        model = small_model(SMALL.replace(**changes), dtype=torch.float32)
        ids = random_ids(2, 23)

        np.testing.assert_allclose(model(ids).detach().numpy(), oracle_logits(model, ids), rtol=0, atol=5e-5)

    def test_names_and_shapes(self, changes):
        """The parameters are those that the config lists, in the same order."""
        config = SMALL.replace(**changes)
        model = GPTModel(config)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}

        assert list(config.parameter_shapes().items()) == list(shapes.items())
        assert config.n_parameters == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("name", list_models())
def test_registered_names_and_shapes(name):
    """Every registered config lists exactly the model's parameters."""
    config = get_config(name)
    with torch.device("meta"):
        model = GPTModel(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}

    assert list(config.parameter_shapes().items()) == list(shapes.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_published_sizes(name, expected):
    """The four models have as many parameters as OpenAI's files."""
    with torch.device("meta"):
        model = GPTModel(get_config(name))

    assert expected == get_config(name).n_parameters == sum(value.numel() for value in model.parameters())


class TestForward:
    def test_causal(self):
        """A token changes no logits before it and all logits after it."""
        model, ids = small_model(), random_ids(1, 13)
        other = ids.clone()
        other[0, 6] = (ids[0, 6] + 1) % 97
        changed = (model(ids) != model(other)).any(-1)[0]

        assert changed.tolist() == [False] * 6 + [True] * 7

    def test_last_picks_one_position(self):
        """With `last`, each row's logits are those after that index, for any ids that follow."""
        model, ids = small_model(), random_ids(3, 13)
        last = torch.tensor([12, 0, 6])
        expected = model(ids)[torch.arange(3), last]
        ids[1, 1:] = 5

        torch.testing.assert_close(model(ids, last=last), expected, rtol=0, atol=1e-12)

    def test_logits_of_hidden(self):
        """A forward pass is hidden, then logits."""
        model, ids = small_model(), random_ids(2, 5)

        assert torch.equal(model(ids), model.logits(model.hidden(ids)))
        assert model.hidden(ids).shape == (2, 5, 30)

    def test_too_many_tokens(self):
        """More tokens than the context are refused, with both numbers."""
        with pytest.raises(OptionError, match="24 tokens do not fit into a context of 23"):
            small_model()(random_ids(1, 24))

    def test_dropout_only_in_training(self):
        """Dropout is active in training mode and inactive in evaluation mode."""
        model, ids = small_model(), random_ids(1, 9)

        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))

    def test_tied_head_has_the_gradient_of_both_uses(self):
        """The tied weight is one parameter, which both embedding and head move."""
        model, ids = small_model(), random_ids(1, 4)
        model(ids)[0, -1, 90].backward()
        moved = model.tok_emb.weight.grad.abs().sum(-1) > 0

        assert {*ids[0].tolist(), 90} == set(moved.nonzero()[:, 0].tolist())


@pytest.fixture(scope="module")
def book():
    """The chapter's untrained model: gpt2-small with a context of 256, no qkv bias, an untied head, seed 123."""
    config = GPTConfig(context_length=256, qkv_bias=False, tied=False)
    return create(config, seed=123, init="book").eval()


class TestBook:
    """Figures printed in chapter 5; the last digits of float32 vary with the CPU's vector width."""

    def test_size(self, book):
        """The model has 162,419,712 parameters with these settings."""
        assert book.config.n_parameters == 162_419_712

    def test_untrained_sample(self, book):
        """Greedy decoding prints the chapter's ten tokens, digit for digit."""
        text = "".join(t.text for t in generate(book, "Every effort moves you", temperature=0, max_new_tokens=10))

        assert text == " rentingetic wasnم refres RexMeCHicular stren"

    def test_target_probabilities_and_loss(self, book):
        """The target tokens' probabilities, their cross-entropy and perplexity are the printed ones."""
        ids = torch.tensor([[16833, 3626, 6100], [40, 1107, 588]])
        targets = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])
        with torch.no_grad():
            logits = book(ids)
        probs = logits.softmax(-1).gather(-1, targets[..., None])[..., 0]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
        # 5e-5: half a unit of the fifth printed digit of 1.0337.
        expected = [[7.4541e-05, 3.1061e-05, 1.1563e-05], [1.0337e-05, 5.6776e-05, 4.7559e-06]]

        np.testing.assert_allclose(probs.numpy(), expected, rtol=5e-5)
        assert loss == pytest.approx(10.7940, rel=1e-5)
        assert math.exp(loss) == pytest.approx(48725.8203, rel=1e-5)


@pytest.mark.peers
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"activation": "gelu"}, {"inner_width": 37}], ids=str)
def test_transformers_agrees(changes):
    """The same weights in transformers give the same logits and the same greedy tokens, with its cache and ours."""
    transformers = pytest.importorskip("transformers")
    model = small_model(SMALL.replace(**changes))
    peer = _transformers_model(transformers, model)
    ids = random_ids(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), peer(ids).logits, rtol=0, atol=1e-12)
        expected = peer.generate(ids[:1], max_new_tokens=14, do_sample=False, pad_token_id=0)[0, 9:].tolist()

    assert expected == [t.id for t in generate(model, ids[0].tolist(), temperature=0, max_new_tokens=14)]
    assert len(set(expected)) > 3


def _transformers_model(transformers, model):
    config = model.config
    peer_config = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.width,
        n_head=config.n_heads,
        n_layer=config.n_layers,
        n_inner=config.inner_width,
        activation_function="gelu_new" if config.activation == "gelu_tanh" else "gelu",
        tie_word_embeddings=config.tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    names = {"norm1": "ln_1", "attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "norm2": "ln_2"}
    names |= {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    ours = model.state_dict()
    state = {"transformer.wte.weight": ours["tok_emb.weight"], "transformer.wpe.weight": ours["pos_emb.weight"]}
    state["lm_head.weight"] = ours.get("head.weight", ours["tok_emb.weight"])
    for kind in ("weight", "bias"):
        state[f"transformer.ln_f.{kind}"] = ours[f"final_norm.{kind}"]
        for i in range(config.n_layers):
            for our_name, their_name in names.items():
                value = ours[f"blocks.{i}.{our_name}.{kind}"]
                # Their Conv1D holds (in, out).
                state[f"transformer.h.{i}.{their_name}.{kind}"] = value.T if value.ndim == 2 else value
    peer = transformers.GPT2LMHeadModel(peer_config).double().eval()
    peer.load_state_dict(state)
    return peer


def test_own_tokenizer():
    """A model keeps the tokenizer it is given, and has GPT-2's otherwise."""
    tokenizer = Tokenizer()

    assert small_model(tokenizer=tokenizer).tokenizer is tokenizer
    assert small_model().tokenizer.n_vocab == 50257


def test_cache_of_other_rows_is_refused():
    """A cache for another number of rows is refused."""
    with pytest.raises(OptionError, match="2 rows of ids do not fit a cache of 3 rows"):
        small_model()(random_ids(2, 4), KVCache(SMALL, 3, dtype=torch.float64))
