"""Text from the engine: the torch path's greedy tokens, samples of the right distribution, and the command's choice."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small import SMALL, random_ids, small_model, varied

import zoo
from zoo.api.text import generate_batch, generate_many
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

    expected = [(i, t.id, t.finish_reason) for i, t in generate_batch(model, prompts, backend="torch", **options)]
    found = list(generate_batch(engine_of(model), prompts, **options))

    assert expected == [(i, t.id, t.finish_reason) for i, t in found]


def test_log_probabilities_are_those_of_torch():
    """Each token's is that of the model alone."""
    model = small_model(dtype=torch.float32)
    options = {"temperature": 0, "max_new_tokens": 15}
    expected = [t.logprob for _, t in generate_batch(model, [[7, 8]], backend="torch", **options)]

    assert np.allclose(expected, [t.logprob for _, t in generate_batch(engine_of(model), [[7, 8]], **options)])


@pytest.mark.parametrize("batch", [1, 2, 5, 40])
def test_many_are_alone_to_the_bit(batch):
    """Each of 30 texts, and each log-probability, is what its prompt gives alone; torch's tokens are the same."""
    model = small_model(dtype=torch.float32)
    engine, got = engine_of(model), [[] for _ in range(30)]
    for i, token in generate_many(engine, varied(30), batch=batch):
        got[i].append(token)

    for (prompt, request), tokens in zip(varied(30), got, strict=True):
        assert [t for _, t in generate_batch(engine, [prompt], **vars(request))] == tokens
        torch_ids = [t.id for _, t in generate_batch(model, [prompt], backend="torch", **vars(request))]
        assert torch_ids == [t.id for t in tokens]


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


@pytest.mark.parametrize("options", [["--quantize", "int8"]])
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
    assert "was not built here; leave it out, or install zoo with a C compiler" in result.stderr
