"""The process that reads HDF5 files gives each request its own answer, whatever happens meanwhile."""

import os
import signal
import subprocess
import sys
import threading
from random import Random

import numpy as np
import pytest

from zoo.containers.hdf5.reader import read_hdf5

h5py = pytest.importorskip("h5py")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


@pytest.fixture
def files(tmp_path):
    """Files of one array in pieces each, whose values the worker reads; all are different."""
    paths = [tmp_path / f"{i}.h5" for i in range(6)]
    for i, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.full(9_000, i + 0.5), chunks=(900,))
    return paths


def values(path):
    """The distinct values of a file."""
    return set(read_hdf5(path)["x"].load().tolist())


# An interrupt may fall between opening a file and the `with` that closes it; the collector then does, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_request_leaves_no_answer_for_the_next(files):
    """Reads are interrupted at random moments; all that end have the right values."""
    random, n_interrupted = Random(5), 0

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(120):
            expected = i % len(files)
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.004) if i % 2 else 0.0)
                    assert {expected + 0.5} == values(files[expected])
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
            except Interrupted:
                n_interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert n_interrupted > 10


@needs_fork
def test_forked_children_have_workers_of_their_own(files):
    """Four children and their parent read at the same time, each what it asked for, and the children end."""
    values(files[0])  # starts the parent's
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            right = all({i + 0.5} == values(files[i]) for i in [child, 5, child + 1] * 3)
            os._exit(0 if right else 1)
        children.append(pid)
    assert all({i + 0.5} == values(path) for _ in range(3) for i, path in enumerate(files))
    assert [0] * 4 == [os.waitpid(pid, 0)[1] for pid in children]


@needs_fork
def test_a_child_forked_while_another_thread_reads_can_read(files):
    """The lock that the thread holds is not the child's."""
    stop = threading.Event()

    def read():
        while not stop.is_set():
            values(files[0])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if values(files[2]) == {2.5} else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


@needs_fork
def test_a_child_that_exits_normally_does_not_hang(files):
    """Neither the child nor the parent waits for the other's worker at exit."""
    script = f"""
import os, sys
from pathlib import Path
from zoo.containers.hdf5.reader import read_hdf5
read_hdf5(Path({str(files[0])!r}))["x"].load()
pid = os.fork()
found = read_hdf5(Path({str(files[1])!r}))["x"].load()[0]
if pid:
    status = os.waitpid(pid, 0)[1]
    sys.exit(int(status != 0 or read_hdf5(Path({str(files[2])!r}))["x"].load()[0] != 2.5))
sys.exit(int(found != 1.5))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
