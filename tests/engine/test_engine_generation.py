"""Text from the engine: the torch path's greedy tokens, samples of the right distribution, and the command's choice."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, random_ids, small_model, varied
from zoo.engine.choose import distribution, draw, logprob, pick
from zoo.engine.generation import generate_batch, generate_many

import zoo
from zoo.api.text import generate_batch as generate_with_torch
from zoo.cli.main import main
from zoo.engine import Engine, is_built
from zoo.generation.options import GenerationOptions

pytestmark = pytest.mark.skipif(not is_built(), reason="the C library was not built here")


def engine_of(model):
    state = model.state_dict()
    return Engine(model.config, {name: state[name].numpy() for name in model.config.parameter_shapes()}, threads=1)


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"bias": False, "qkv_bias": False}, {"activation": "gelu"}])
def test_greedy_tokens_are_those_of_torch_far_past_the_context(changes):
    """Three prompts at once, 150 tokens each with a context of 23: ids, log-probabilities and reasons agree."""
    model = small_model(SMALL.replace(**changes), dtype=torch.float32)
    prompts, options = [[1, 2, 3], [5], list(range(30))], {"temperature": 0, "max_new_tokens": 150, "ignore_eos": True}

    expected = [(i, t.id, t.finish_reason) for i, t in generate_with_torch(model, prompts, **options)]
    found = list(generate_batch(engine_of(model), prompts, GenerationOptions(**options)))

    assert expected == [(i, t.id, t.finish_reason) for i, t in found]


def test_log_probabilities_are_those_of_torch():
    """Each token's is that of the model alone."""
    model = small_model(dtype=torch.float32)
    options = {"temperature": 0, "max_new_tokens": 15}
    expected = [t.logprob for _, t in generate_with_torch(model, [[7, 8]], **options)]

    assert np.allclose(
        expected, [t.logprob for _, t in generate_batch(engine_of(model), [[7, 8]], GenerationOptions(**options))]
    )


@pytest.mark.parametrize("batch", [1, 2, 5, 40])
def test_many_are_alone_to_the_bit(batch):
    """Each of 30 texts, and each log-probability, is what its prompt gives alone; greedy ones are torch's."""
    model = small_model(dtype=torch.float32)
    engine, got = engine_of(model), [[] for _ in range(30)]
    for i, token in generate_many(engine, varied(30), batch=batch):
        got[i].append(token)

    for (prompt, request), tokens in zip(varied(30), got, strict=True):
        assert [t for _, t in generate_batch(engine, [prompt], request)] == tokens
        if request.temperature == 0:
            options = {"temperature": 0, "max_new_tokens": request.max_new_tokens, "stop_ids": request.stop_ids}
            assert [t.id for _, t in generate_with_torch(model, [prompt], **options)] == [t.id for t in tokens]


def test_one_pass_serves_all(monkeypatch):
    """While prompts are left, every pass continues or begins a text in each place: no weights are read for fewer."""
    engine, passes = engine_of(small_model(dtype=torch.float32)), []
    plain = engine._forward
    monkeypatch.setattr(
        engine, "_forward", lambda ids, rows, *rest: passes.append(set(rows)) or plain(ids, rows, *rest)
    )
    items = (([i + 1, 2], GenerationOptions(max_new_tokens=3 + i % 4, seed=i)) for i in range(20))
    n_tokens = len(list(generate_many(engine, items, batch=4)))

    assert sum(map(len, passes)) == n_tokens == sum(3 + i % 4 for i in range(20))
    assert all(len(rows) == 4 for rows in passes[: 3 * n_tokens // 16])
    assert len(passes) <= n_tokens // 4 + 6


def test_a_cache_grows_and_keeps_what_it_has():
    """Rows go on after the cache has got more room as they would have in a larger one."""
    engine, ids = engine_of(small_model(dtype=torch.float32)), random_ids(23).numpy()
    cache, expected = engine.new_cache(3, 5), engine.verify(ids, engine.new_cache())
    engine.prefill(ids[:5], cache, 2)
    cache.grow(23)
    cache.grow(9)

    assert (engine.verify(ids[5:], cache, 2) == expected[5:]).all()
    assert (engine.verify(ids, cache, 0) == expected).all()


@pytest.mark.parametrize(
    "options", [{"top_p": 1.0}, {"top_k": 3, "top_p": None}, {"top_p": 0.7}, {"min_p": 0.2}, {"temperature": 0.5}]
)
def test_samples_have_the_distribution_of_the_torch_sampler(options):
    """Of 4000 draws, each token's share is within four standard deviations of its probability, 0 where filtered."""
    from zoo.generation.sampler import _filters

    logits = np.array([2.0, 1.0, 1.0, 0.5, -1.0, -3.0], np.float32)
    request = GenerationOptions(**options)
    filtered = torch.tensor(logits) / request.temperature
    for keep in _filters(request):
        filtered = keep(filtered)
    probs = filtered.softmax(-1).tolist()
    generator = np.random.default_rng(1)
    draws = [pick(logits, [], request, generator) for _ in range(4000)]

    for token, p in enumerate(probs):
        assert abs(draws.count(token) / 4000 - p) <= 4 * math.sqrt(p * (1 - p) / 4000)


class Fixed:
    """A generator that always draws the same number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


@given(
    logits=st.lists(st.integers(-12, 12), min_size=2, max_size=40),
    top_k=st.none() | st.integers(1, 45),
    top_p=st.none() | st.sampled_from([0.0913, 0.6137, 0.9871]),
    min_p=st.none() | st.sampled_from([0.0317, 0.4339]),
    temperature=st.sampled_from([0.37, 1.0, 2.1]),
    number=st.sampled_from([0.0, 0.1237, 0.5171, 0.9113, 0.99999]),
)
def test_the_filters_keep_what_those_of_torch_keep(logits, top_k, top_p, min_p, temperature, number):
    """Of what the torch filters keep (many logits are equal), a number from 0 to 1 draws as the shares say."""
    from zoo.generation.sampler import _filters

    logits = np.array(logits, np.float32) / 2
    request = GenerationOptions(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    filtered = torch.tensor(logits, dtype=torch.float64) / temperature
    for keep in _filters(request):
        filtered = keep(filtered)
    probs = filtered.softmax(-1).numpy()

    expected = np.searchsorted(probs.cumsum(), number, side="right")
    assert expected == pick(logits, [], request, Fixed(number))


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.3, 9.0, 1e36])
@pytest.mark.parametrize("options", [{"top_k": 50}, {"top_p": 0.95}, {"top_k": 900, "top_p": 0.5}, {"top_p": 1e-9}])
def test_a_whole_vocabulary_keeps_what_a_sort_would_keep(spread, options):
    """Of 50,257 logits, flat or far apart or all equal: the kept tokens are those of a stable sort and running sums."""
    logits = (np.random.default_rng(3).normal(size=50257) * spread).round(6).astype(np.float32)
    request = GenerationOptions(**{"top_p": None, "temperature": 1.3, **options})
    exact = logits.astype(np.float64)
    order = np.argsort(-exact, kind="stable")[: request.top_k]
    probs = np.exp((exact[order] - exact[order[0]]) / 1.3)
    if request.top_p:
        order = order[probs.cumsum() - probs < request.top_p * probs.sum()]
    order = order[: (probs > 0).sum()]

    assert sorted(order) == np.flatnonzero(distribution(logits, [], request)).tolist()


@given(sizes=st.lists(st.sampled_from([0.0, 1e-300, 0.5, 7.0]), min_size=1, max_size=700).filter(any))
def test_a_draw_is_the_place_in_the_running_sum(sizes):
    """At every number from 0 to nearly 1, and never a weight of nothing."""
    weights = np.array(sizes)
    for number in (0.0, 0.25, 0.6180339887, 0.75, np.nextafter(1, 0)):
        found = draw(weights, Fixed(number))
        assert weights[found] > 0
        below, upto = weights[:found].sum(), weights[: found + 1].sum()
        assert below <= number * weights.sum() * (1 + 1e-12) and number * weights.sum() <= upto * (1 + 1e-12)


def test_log_probabilities_are_those_of_a_softmax_in_float64():
    """Of a whole vocabulary, whose best logit is far above zero."""
    logits = (np.random.default_rng(4).normal(size=50257) * 5 + 1000).astype(np.float32)
    exact = logits.astype(np.float64) - 1000

    for token in (0, 7, int(logits.argmax())):
        assert logprob(logits, token) == pytest.approx(exact[token] - np.log(np.exp(exact).sum()), abs=1e-4)


def test_the_command_gives_the_same_text_with_both_and_needs_no_torch(tmp_path):
    """Greedy text is the same with --engine native and torch, and native imports no torch."""
    zoo.save(zoo.create("test-tiny", seed=1), tmp_path / "a.safetensors")
    command = ["generate", "-m", str(tmp_path / "a.safetensors"), "-t", "0", "-n", "20", "Every effort"]
    texts = [CliRunner().invoke(main, [*command, "--engine", engine]).output for engine in ("native", "torch")]
    program = (
        f"import sys; from zoo.cli.main import main\ntry: main({command})\nfinally: assert 'torch' not in sys.modules"
    )
    # Elsewhere: -c looks for zoo in the working directory first, where the source tree has no library.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert texts[0] == texts[1] == done.stdout
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--engine", "torch", "--quantize", "int8"], "native engine"),
        (["--engine", "torch", "--speculate", "ngram"], "native engine"),
        (["--engine", "native", "--device", "cuda"], "runs on the CPU"),
        (["--engine", "native", "--dtype", "float64"], "not 'float64'"),
        (["--dtype", "int8"], "ask for it with `--quantize int8`"),
        (["--quantize", "int8", "--device", "cuda"], "runs on the CPU"),
    ],
)
def test_what_an_engine_cannot_do_is_told(tmp_path, options, problem):
    """Options that contradict each other are one line of error."""
    zoo.save(zoo.create("test-tiny"), tmp_path / "a.safetensors")
    result = CliRunner().invoke(main, ["generate", "-m", str(tmp_path / "a.safetensors"), *options, "hi"])

    assert result.exit_code != 0
    assert problem in f"{result.output} {result.exception}"


@pytest.mark.parametrize("options", [["--quantize", "int8"], ["--speculate", "ngram"], ["--draft", "stories"]])
def test_where_it_is_not_built_its_options_say_so(tmp_path, monkeypatch, options):
    """The advice is not to use --engine torch, which has not these options either; --threads is of both."""
    zoo.save(zoo.create("test-tiny", seed=1), tmp_path / "a.safetensors")
    command = ["generate", "-m", str(tmp_path / "a.safetensors"), "-t", "0", "-n", "5", "Every effort"]
    expected = CliRunner().invoke(main, command).stdout
    monkeypatch.setattr("zoo.engine.is_built", lambda: False)
    before = torch.get_num_threads()
    try:
        threads = CliRunner().invoke(main, [*command, "--threads", "1"])
        assert (expected, 1) == (threads.stdout, torch.get_num_threads())
    finally:
        torch.set_num_threads(before)

    result = CliRunner().invoke(main, [*command, *options])
    assert 1 == result.exit_code
    assert "was not built here; leave them out, or install zoo with a C compiler" in result.stderr
