"""Engines that are closed, copied, shared by threads, inherited by processes, or given a changed cache."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL, random_ids, small_model

import zoo
from zoo.engine import Engine, is_built
from zoo.errors import OptionError

pytestmark = pytest.mark.skipif(not is_built(), reason="the C library was not built here")

IDS = random_ids(11).tolist()
TESTS = Path(__file__).parents[1]


def new_engine(threads=1):
    model = small_model(dtype=torch.float32)
    return Engine(SMALL, {name: each.detach().numpy() for name, each in model.named_parameters()}, threads=threads)


def test_use_after_close_is_an_error():
    """Closing twice is allowed; a pass afterwards is not. Leaving a with block closes."""
    with new_engine() as engine:
        cache = engine.new_cache()
        engine.prefill(IDS, cache)
    engine.close()

    with pytest.raises(OptionError, match="the engine is closed; open the checkpoint again"):
        engine.step([1], cache)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_engine_is_not_copied(duplicate):
    """Two owners of one C pointer would close it twice; copying says what to do instead."""
    with pytest.raises(OptionError, match="an Engine cannot be copied or pickled; share it, or open"):
        duplicate(new_engine())


def test_a_cache_can_be_copied():
    """The copy continues alone, with the same bits."""
    engine = new_engine()
    cache = engine.new_cache()
    engine.prefill(IDS, cache)
    other = copy.deepcopy(cache)

    assert (engine.step([3], cache) == engine.step([3], other)).all()
    assert cache.lengths.tolist() == other.lengths.tolist() == [12]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda cache: setattr(cache, "lengths", np.array([99999])),
        lambda cache: setattr(cache, "room", 10**9),
        lambda cache: setattr(cache, "keys", np.zeros(1)),
        lambda cache: cache.lengths.__setitem__(0, 99999),
        lambda cache: cache.keys.__setitem__(0, 1),
    ],
)
def test_the_fields_of_a_cache_are_read_only(tamper):
    """They would lead the C side out of its arrays."""
    cache = new_engine().new_cache()

    with pytest.raises((AttributeError, ValueError)):
        tamper(cache)


def test_a_view_of_a_cache_does_not_change_its_shape():
    """Giving the returned array another shape leaves the cache's own alone."""
    engine = new_engine()
    cache = engine.new_cache()
    keys = cache.keys
    keys.shape = (-1,)

    assert engine.prefill(IDS, cache).shape == (97,)


def write(model):
    """In a worker: a text and the process that made it."""
    return os.getpid(), zoo.complete(model, IDS, seed=4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_pool_of_forked_workers_works_after_the_model_ran():
    """Workers inherit an engine whose threads do not exist there; their texts are the same."""
    model = small_model(dtype=torch.float32)
    expected = zoo.complete(model, IDS, seed=4)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(write, [model] * 4).get(timeout=60)
        inherited = pool.apply_async(zoo.complete, (model, IDS), {"seed": 4}).get(timeout=60)

    assert {text for _, text in found} == {expected} == {inherited}
    assert os.getpid() not in {pid for pid, _ in found}


@pytest.mark.parametrize("how", ["fork while a thread computes", "exit while a thread computes"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
def test_threads_in_a_pass_do_no_harm(how):
    """A child of a fork can use the engine although a thread of the parent held its lock; a process can exit."""
    program = """
import os, sys, threading, torch
from small import *
from test_sharing import IDS, new_engine
engine = new_engine(2)
started = threading.Event()
def work():
    cache = engine.new_cache()
    while True:
        cache.truncate(0)
        engine.prefill(IDS, cache)
        started.set()
threading.Thread(target=work, daemon=True).start()
started.wait()
if sys.argv[1].startswith("fork"):
    for _ in range(20):
        child = os.fork()
        if not child:
            engine.prefill(IDS, engine.new_cache())
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    paths = os.pathsep.join([str(Path(zoo.__file__).parents[1]), str(TESTS), str(Path(__file__).parent)])
    command = [sys.executable, "-P", "-c", program, how]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=90)

    assert (done.returncode, done.stderr) == (0, "")
