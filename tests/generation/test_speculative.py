"""Speculative decoding: the same greedy text, samples of the same distribution, whoever guesses and however badly."""

import json
from itertools import product

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL, random_ids, small_model
from strategies import configs

import zoo
from zoo.api.text import generate_batch
from zoo.cli.main import main
from zoo.engine import Engine, is_built
from zoo.errors import OptionError, ZooError
from zoo.generation.options import GenerationOptions
from zoo.generation.sampler import Sampler
from zoo.generation.speculative import Counts
from zoo.hub.resolve import find_checkpoint
from zoo.models.gpt2.init import create

pytestmark = pytest.mark.skipif(not is_built(), reason="the C library was not built here")


def engine_of(model):
    state = model.state_dict()
    return Engine(model.config, {name: state[name].numpy() for name in model.config.parameter_shapes()}, threads=1)


def flattened(config, seed):
    """A small model whose logits are a third as far apart, so that every token has some probability."""
    model = small_model(config, seed=seed, dtype=torch.float32)
    with torch.no_grad():
        model.final_norm.weight *= 0.35
        model.final_norm.bias *= 0.35
    return model


@pytest.fixture(scope="module")
def stories():
    return Engine.open(find_checkpoint("stories"), threads=1)


@pytest.fixture(scope="module")
def target():
    return engine_of(small_model(dtype=torch.float32))


@pytest.fixture(scope="module")
def stranger():
    """A draft of other sizes and weights, whose context is shorter."""
    config = SMALL.replace(context_length=17, width=14, n_heads=2, n_layers=1)
    return engine_of(small_model(config, seed=7, dtype=torch.float32))


requests = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(0, 45),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.4, 0.6]),
        "stop_ids": st.lists(st.integers(0, 96), max_size=4),
        "stop": st.lists(st.sampled_from(["a", "B%", "'"]), max_size=2),
        "past_context": st.sampled_from(["slide", "half", "stop"]),
        "ignore_eos": st.booleans(),
        "seed": st.integers(0, 99),
    }
)
prompts = st.lists(st.integers(0, 96), min_size=1, max_size=30) | st.lists(
    st.integers(0, 2), min_size=4, max_size=20
)  # few ids: there is something to look up


def by_text(pairs):
    """The tokens of each text."""
    return {i: [token for j, token in pairs if j == i] for i, _ in pairs}


@settings(max_examples=120)
@given(prompt=prompts, options=requests, temperature=st.sampled_from([0.0, 0.02, 1.0]), n=st.integers(1, 12))
def test_looked_up_guesses_change_no_token(target, prompt, options, temperature, n):
    """With ngram every token, log-probability, text and reason is the same as without, samples too, to the bit."""
    if options["past_context"] == "stop":
        prompt = prompt[:23]
    request = GenerationOptions(temperature=temperature, **options)
    expected = list(generate_batch(target, [prompt, [5, 6]], n_samples=2, **vars(request)))

    found = list(generate_batch(target, [prompt, [5, 6]], n_samples=2, draft="ngram", draft_tokens=n, **vars(request)))
    assert by_text(expected) == by_text(found)


@settings(max_examples=100)
@given(prompt=prompts, options=requests, n=st.integers(1, 12), who=st.sampled_from(["itself", "stranger"]))
def test_drafted_guesses_change_no_greedy_token(target, stranger, prompt, options, n, who):
    """A draft that is always right and one that is never leave greedy tokens as they are, far past the context."""
    if options["past_context"] == "stop":
        prompt = prompt[:23]
    request = GenerationOptions(temperature=0, **options)
    draft = {"itself": target, "stranger": stranger}[who]
    expected = list(generate_batch(target, [prompt], **vars(request)))

    assert expected == list(generate_batch(target, [prompt], **vars(request), draft=draft, draft_tokens=n))


@settings(max_examples=25)
@given(config=configs(vocab_size=11, vocab_rows=13), seed=st.integers(0, 1000), n=st.integers(1, 5))
def test_any_model_drafts_for_any_other(config, seed, n):
    """Models of every shape and of contexts from 1 token on: greedy tokens are those of the plain loop."""
    model = engine_of(small_model(config, seed=seed, dtype=torch.float32))
    drafts = ["ngram", engine_of(small_model(SMALL.replace(vocab_size=11), dtype=torch.float32))]
    request = GenerationOptions(temperature=0, max_new_tokens=25)
    expected = list(generate_batch(model, [[3, 1, 3]], **vars(request)))

    for draft in drafts:
        assert expected == list(generate_batch(model, [[3, 1, 3]], **vars(request), draft=draft, draft_tokens=n))


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_stories_are_the_same(stories, quantize):
    """The packaged model, drafting for itself in int4 and looking up its own words, writes the same story."""
    path = find_checkpoint("stories")
    model = Engine.open(path, threads=1, quantize=quantize)
    request = GenerationOptions(temperature=0, max_new_tokens=120)
    prompt = "Once upon a time there was a cat. The cat sat on a mat. Once upon a time"
    expected = list(generate_batch(model, [prompt], **vars(request)))

    for draft in ("ngram", Engine.open(path, threads=1, quantize="int4")):
        counts = []
        assert expected == list(generate_batch(model, [prompt], **vars(request), draft=draft, counts=counts))
        assert counts[0].accepted > 0
        assert counts[0].passes < len(expected) == counts[0].tokens


def test_a_draft_that_is_always_right_saves_every_pass_it_can(target):
    """The model as its own draft, 4 guesses a pass: all accepted, 21 tokens in 5 passes of 5 (the last gives 1)."""
    counts: list[Counts] = []
    request = GenerationOptions(temperature=0, max_new_tokens=21)
    tokens = list(generate_batch(target, [[5]], **vars(request), draft=target, counts=counts))

    assert len(tokens) == 21
    assert [Counts(passes=5, proposed=16, accepted=16, tokens=21)] == counts
    assert counts[0].rate == 1.0


TINY = zoo.GPTConfig(vocab_size=5, context_length=9, width=6, n_heads=2, n_layers=1)
DRAWS = 4000


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 1.0},
        {"top_p": 0.8},
        {"top_k": 3, "top_p": None},
        {"min_p": 0.15, "top_p": None, "temperature": 1.3},
        {"repetition_penalty": 1.8, "temperature": 0.7, "top_p": None},
    ],
)
def test_samples_by_a_draft_follow_the_models_own_distribution(options):
    """Chi-square over all texts of three tokens, against probabilities multiplied out from the model: p above 0.001.

    The draft disagrees (seed 4, another shape), so that guesses are accepted and rejected at every place.
    """
    model = flattened(TINY, 1)
    draft = engine_of(flattened(TINY.replace(width=8, n_layers=2), 4))
    counts: list[Counts] = []
    request = GenerationOptions(max_new_tokens=3, seed=12, **options)
    texts: list[list[int]] = [[] for _ in range(DRAWS)]
    for i, token in generate_batch(
        engine_of(model), [[2, 0]], draft=draft, draft_tokens=2, n_samples=DRAWS, counts=counts, **vars(request)
    ):
        texts[i].append(token.id)
    expected = text_probabilities(model, [2, 0], 3, request)

    assert 0.2 < sum(c.accepted for c in counts) / sum(c.proposed for c in counts) < 0.95
    assert p_value([tuple(text) for text in texts], expected) > 0.001


def test_the_chi_square_sees_a_wrong_rule(monkeypatch):
    """If rejected guesses were drawn anew from the model's whole distribution, the test above would fail."""
    monkeypatch.setattr(
        "zoo.generation.speculative._accept",
        lambda p, q, guess, rng: guess if rng.random() * q[guess] < p[guess] else int(rng.choice(len(p), p=p)),
    )
    with pytest.raises(AssertionError):
        test_samples_by_a_draft_follow_the_models_own_distribution({"top_p": 1.0})


def text_probabilities(model, prompt, n, request):
    """The probability of each text of n tokens, by the torch model and its sampler's filters."""
    expected = {}
    for text in product(range(5), repeat=n):
        p = 1.0
        for i, token in enumerate(text):
            ids = [*prompt, *text[:i]]
            p *= probabilities(model, ids, request)[token]
        expected[text] = p
    return expected


def probabilities(model, ids, request):
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))[0, -1]
    return Sampler(request, 2).distribution(logits.numpy(), ids).tolist()


def p_value(texts, expected):
    """Of Pearson's chi-square; texts that are rare go into one class, and impossible ones must not be there."""
    assert all(expected[text] > 0 for text in texts)
    common = [text for text, p in expected.items() if p * len(texts) >= 5]
    observed = [texts.count(text) for text in common]
    wanted = [expected[text] * len(texts) for text in common]
    if (rest := len(texts) - sum(wanted)) > 1e-6 * len(texts):
        observed.append(len(texts) - sum(observed))
        wanted.append(rest)
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    freedom = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


def test_a_draft_of_another_vocabulary_is_refused(target):
    """Another number of tokens, or other tokens, are one clear sentence."""
    other = engine_of(small_model(SMALL.replace(vocab_size=96), dtype=torch.float32))
    with pytest.raises(OptionError, match="the draft model has 96 tokens, the model 97"):
        generate_batch(target, [[1]], draft=other)

    same_size = engine_of(small_model(dtype=torch.float32))
    tokens = {chr(256 + i): i for i in range(97)}
    same_size.vocabulary = zoo.text.vocabulary.Vocabulary.byte_level(json.dumps(tokens).encode(), b"#version: 0.2\n")
    with pytest.raises(OptionError, match="the draft model's tokens are not those of the model"):
        generate_batch(target, [[1]], draft=same_size)


@pytest.mark.parametrize(
    "wrong",
    [
        {"draft": "ngram", "draft_tokens": 0},
        {"draft": "ngram", "draft_tokens": 256},
        {"n_samples": 0},
        {"draft": "stories"},
        {"draft": "gpt2"},
    ],
)
def test_options_are_checked_before_anything_runs(target, wrong):
    """Numbers outside their range, and a draft that is none."""
    with pytest.raises(OptionError):
        generate_batch(target, [[1]], **wrong)


def test_a_draft_whose_logits_are_not_finite_is_told(target):
    """Not finite guesses are an error, not a text."""
    model = small_model(dtype=torch.float32)
    with torch.no_grad():
        model.final_norm.weight[3] = float("nan")
    with pytest.raises(ZooError, match="not finite"):
        list(generate_batch(target, [[1]], draft=engine_of(model)))


def test_logits_of_as_many_tokens_as_are_wanted(target):
    """`last` adds those of the tokens before the last, of each list, and changes none."""
    parts = [random_ids(20).numpy(), random_ids(3, seed=4).numpy()]
    expected = [target.verify(ids, target.new_cache()) for ids in parts]

    for last in ([1, 1], [2, 3], [3, 1], [20, 3]):
        found = target.logits(parts, target.new_cache(2), [0, 1], last)
        assert all((each[-n:] == other).all() for each, other, n in zip(expected, found, last, strict=True))


@pytest.mark.parametrize("how", [["--speculate", "ngram"], ["--draft", "{draft}", "--speculate-tokens", "3"]])
def test_the_command_says_how_many_guesses_were_accepted(tmp_path, how):
    """The text on stdout is the plain one; the acceptance rate is a line on stderr, and in --json a field."""
    zoo.save(create("test-tiny", seed=1), tmp_path / "a.safetensors")
    zoo.save(create("test-tiny", seed=2), tmp_path / "draft.safetensors")
    plain = ["generate", "-m", str(tmp_path / "a.safetensors"), "-t", "0", "-n", "30", "Every effort moves"]
    command = [*plain, *(word.format(draft=tmp_path / "draft.safetensors") for word in how)]
    expected, found = (CliRunner().invoke(main, args) for args in (plain, command))
    assert expected.stdout == found.stdout
    assert "draft tokens accepted" in found.stderr

    reports = [json.loads(CliRunner().invoke(main, [*args, "--json"]).stdout)[0] for args in (plain, command)]
    speculation = reports[1].pop("speculation")
    assert reports[0] == reports[1]
    assert speculation["tokens"] == len(reports[1]["ids"])
    assert speculation["acceptance_rate"] == speculation["accepted"] / max(1, speculation["proposed"])


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (["--speculate", "ngram", "--draft", "x"], 2, "one of --speculate and --draft"),
        (["--speculate-tokens", "3"], 2, "needs --speculate or --draft"),
    ],
)
def test_the_command_refuses_what_contradicts_itself(tmp_path, options, code, problem):
    """One line of error, 2 for usage."""
    zoo.save(create("test-tiny"), tmp_path / "a.safetensors")
    result = CliRunner().invoke(main, ["generate", "-m", str(tmp_path / "a.safetensors"), *options, "hi"])

    assert problem in f"{result.output} {result.exception}"
    assert code == result.exit_code
