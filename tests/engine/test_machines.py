"""Machines of other kinds: with fewer instructions, without a compiler or the library, with cores that are busy."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL, small_model

import zoo
from zoo.engine import Engine, is_built, native
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
@pytest.mark.parametrize("isa", ["avx512", "avxvnni", "avx2", "generic"])
def test_text_is_the_same_with_fewer_instructions(isa, monkeypatch):
    """Greedy text, batches and guesses are tested with each set of instructions, not only with the machine's best."""
    monkeypatch.setenv("ZOO_ENGINE_ISA", isa)
    try:
        engine_of(small_model(dtype=torch.float32), 1)
    except OptionError:
        pytest.skip(f"this machine has no {isa}")
    names = "greedy_tokens or many_are_alone or the_same_text or log_prob or saves_every_pass"
    passed, skipped = outcomes(
        {"ZOO_ENGINE_ISA": isa}, "tests/engine", "tests/generation/test_speculative.py", "-k", names
    )

    assert (passed, skipped) == (11, 0)


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


def run_with_engine(code):
    """Run code in a process of its own, after an engine of two threads has been made; return the finished process."""
    setup = "import os, threading; import numpy as np; import torch; from test_machines import *\n"
    setup += "engine = engine_of(small_model(dtype=torch.float32), 2)\n"
    paths = [str(Path(zoo.__file__).parents[1]), str(ROOT / "tests"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-P", "-c", setup + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@needs_engine
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
def test_an_engine_works_in_the_child_of_a_fork():
    """Its threads do not exist there, and are started again; the logits are the same."""
    done = run_with_engine("""
before = engine.prefill([3, 1, 4, 1, 5], engine.new_cache())
child = os.fork()
if not child:
    after = engine.prefill([3, 1, 4, 1, 5], engine.new_cache())
    os._exit(0 if np.array_equal(before, after) else 5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert np.array_equal(before, engine.prefill([3, 1, 4, 1, 5], engine.new_cache()))
""")
    assert done.returncode == 0, done.stderr


@needs_engine
def test_a_process_may_exit_while_a_thread_is_in_a_step():
    """The step ends before the memory is freed."""
    done = run_with_engine("""
started = threading.Event()
def work():
    cache = engine.new_cache()
    while True:
        cache.truncate(0)
        engine.prefill(list(range(1, 9)), cache)
        started.set()
threading.Thread(target=work, daemon=True).start()
started.wait()
""")
    assert (done.returncode, done.stderr) == (0, "")


@needs_engine
def test_threads_that_share_an_engine_get_their_own_logits():
    """Passes of several threads run one after another."""
    engine = engine_of(small_model(dtype=torch.float32), 2)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7], [9, 3]]
    alone = [engine.prefill(prompt, engine.new_cache()) for prompt in prompts]

    def many(prompt):
        return [engine.prefill(prompt, engine.new_cache()) for _ in range(20)]

    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(many, prompts))
    for expected, found in zip(alone, together, strict=True):
        assert all(np.array_equal(expected, each) for each in found)


@needs_engine
def test_a_library_of_another_version_is_not_used(monkeypatch):
    """A build of older sources has other structs, and is treated as if there were none."""
    monkeypatch.setattr(native, "_ABI", native._ABI + 1)

    assert native.library.__wrapped__() is None


@needs_engine
@pytest.mark.parametrize("isa", ["", "avx512", "avx2", "generic"])
def test_probes_measure_the_instructions_of_the_engine(isa, monkeypatch):
    """The sum that the bandwidth probe reads is right, and float32 and int16 peaks exist on every machine."""
    monkeypatch.setenv("ZOO_ENGINE_ISA", isa)
    library = native.library()
    values = np.random.default_rng(0).integers(-9, 9, 128 * 341).astype(np.float32)  # not a multiple of a row

    assert library.zoo_read(values.ctypes.data, values.size) == values.sum()
    assert library.zoo_multiply(10) != 0 and library.zoo_multiply_int16(10) != 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
def test_kernels_agree_with_references_on_every_instruction_set():
    """Those of this machine, of x86-64 without AVX and of ARM, the latter two emulated where qemu-user is installed."""
    done = subprocess.run([ROOT / "tools" / "cross_check.sh"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
