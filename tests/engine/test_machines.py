"""Machines of other kinds: with fewer instructions, without a compiler or the library, with cores that are busy."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small import SMALL, small_model

import zoo
from zoo.engine import Engine, is_built
from zoo.errors import OptionError

ROOT = Path(__file__).parents[2]
needs_engine = pytest.mark.skipif(not is_built(), reason="the C library was not built here")


def engine_of(model, threads):
    state = model.state_dict()
    weights = {name: state[name].numpy() for name in model.config.parameter_shapes()}
    return Engine(model.config, weights, threads=threads)


def outcomes(environment, *arguments):
    """How many tests of a child pytest passed, were skipped, and failed."""
    # The zoo that is tested here, not that of the working directory, which may have no library.
    environment = {**os.environ, **environment, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|skipped|failed|error)", done.stdout)}
    assert done.returncode == 0, done.stdout[-3000:]
    return found.get("passed", 0), found.get("skipped", 0)


@needs_engine
@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_text_is_the_same_with_fewer_instructions(isa, monkeypatch):
    """Greedy text, batches and guesses are tested with each set of instructions, not only with the machine's best."""
    monkeypatch.setenv("ZOO_ENGINE_ISA", isa)
    try:
        engine_of(small_model(dtype=torch.float32), 1)
    except OptionError:
        pytest.skip(f"this machine has no {isa}")
    names = "greedy_tokens or many_are_alone or the_same_text or log_prob or saves_every_pass"
    passed, skipped = outcomes({"ZOO_ENGINE_ISA": isa}, "tests/engine", "-k", names)

    assert (passed, skipped) == (12, 0)


def test_without_the_library_the_same_commands_work():
    """Text of one prompt and of files of prompts comes from the torch path alone, and passes the same tests."""
    names = "each_text_is_the_one_made_alone or text_has_a_prompt_a_line or stdin_is or speed_is_no_setting"
    passed, skipped = outcomes({"ZOO_ENGINE": "off"}, "tests/cli/test_prompts.py", "-k", names)

    assert (passed, skipped) == (7, 3)  # the batches of the native engine


@pytest.mark.skipif(os.environ.get("ZOO_ENGINE") == "off", reason="it was asked to be off")
@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="there is no compiler")
def test_the_library_is_built_where_there_is_a_compiler():
    """Else all tests of the engine would be skipped without a word."""
    assert is_built()


def test_a_failing_compiler_does_not_stop_an_installation(tmp_path):
    """The extension is left out with a warning, and building goes on."""
    build = ["setup.py", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temporary"]
    environment = {**os.environ, "CC": "false", "LDSHARED": "false"}
    done = subprocess.run([sys.executable, *build], cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert 'building extension "zoo.engine._kernels" failed' in done.stderr + done.stdout
    assert [] == [*tmp_path.rglob("*.so")]


def seconds_of_steps(engine):
    """The least time of ten steps, of several tries."""
    found = []
    for _ in range(7):
        cache = engine.new_cache()
        started = time.perf_counter()
        for _ in range(10):
            engine.step([1], cache)
        found.append(time.perf_counter() - started)
    return min(found)


@needs_engine
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound to a core here")
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_that_share_a_core_do_not_collapse(threads):
    """Several threads on one core take no more than 25 times as long as one.

    If they waited for each other by spinning, each of the 19 phases of a step would last as long as the system lets a
    thread run, which is milliseconds: fifty times as long and more was seen.
    """
    config = SMALL.replace(width=192, n_heads=3)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread, and those that it starts
    try:
        one, several = (engine_of(small_model(config, dtype=torch.float32), n) for n in (1, threads))
        assert seconds_of_steps(several) < 25 * seconds_of_steps(one) + 0.005
    finally:
        os.sched_setaffinity(0, cores)


@needs_engine
def test_threads_without_work_use_no_processor():
    """Between steps they sleep."""
    engine = engine_of(small_model(dtype=torch.float32), 3)
    engine.step([1], engine.new_cache())
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)

    assert time.process_time() - before < 0.1
