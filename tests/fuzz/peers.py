"""What other libraries do with the same inputs: `PYTHONPATH=tests python -m fuzz.peers --inputs 300`.

Each library reads, in a process of its own, what zoo's own driver would read, and all tensors of it. An input loads, is
refused by a Python exception, ends the process by a signal, takes more than ten seconds, or takes more memory than four
times its size and 64 MB (an address space of 8 GB beyond the start is the limit). zoo is one of them, for comparison.
"""

from __future__ import annotations

import argparse
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cases import READERS, SIZE, Case, entry, save_case, seeds
from .run import make_case
from .watch import EXTRA_BYTES, _peak, _reset_peak

_SLOTS = struct.Struct("<qd")
_SECONDS = 10
_ADDRESS_SPACE = 8 << 30
OUTCOMES = ("loads", "error", "crash", "hang", "memory")


def _safetensors() -> Callable[[Path], Any]:
    from safetensors.numpy import load_file

    return load_file


def _torch() -> Callable[[Path], Any]:
    import torch

    return lambda path: torch.load(path, weights_only=True)


def _tensorflow() -> Callable[[Path], Any]:
    import tensorflow as tf

    def load(path: Path) -> None:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)

    return load


def _transformers() -> Callable[[Path], Any]:
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging as their_logging

    their_logging.set_verbosity(50)
    their_logging.disable_progress_bar()
    return lambda path: GPT2LMHeadModel.from_pretrained(path, local_files_only=True)


def _gguf() -> Callable[[Path], Any]:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    return lambda path: [dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(path).tensors]


def _h5py() -> Callable[[Path], Any]:
    import h5py

    def load(path: Path) -> None:
        for name in (*path.glob("*.h5"),):
            with h5py.File(name) as file:
                file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)

    return load


def _msgpack() -> Callable[[Path], Any]:
    import msgpack

    def load(path: Path) -> None:
        for name in path.glob("*.msgpack"):
            msgpack.unpackb(name.read_bytes(), strict_map_key=False)

    return load


def _zoo() -> Callable[[Path], Any]:
    from zoo.errors import ZooError
    from zoo.formats.opening import open_path

    def load(path: Path) -> None:
        try:
            checkpoint = open_path(path)[1]
        except ZooError:
            checkpoint = open_path(path, size=SIZE)[1]  # some formats store no config
        for tensor in checkpoint.tensors.values():
            tensor.load()

    return load


PEERS: dict[str, tuple[tuple[str, ...], Callable[[], Callable[[Path], Any]]]] = {
    "zoo": (tuple(READERS), _zoo),
    "TensorFlow": (("tf",), _tensorflow),
    "safetensors": (("safetensors",), _safetensors),
    "torch": (("torch", "pickle", "legacy"), _torch),
    "transformers": (("shards", "json"), _transformers),
    "gguf": (("gguf",), _gguf),
    "h5py": (("hdf5",), _h5py),
    "msgpack": (("flax",), _msgpack),
}
"""Readers whose inputs a library gets, and what imports it and gives a function that loads a path."""


def compare(peer: str, reader: str, inputs: int, seed: int) -> tuple[Counter[str], list[int]]:
    """Count the outcomes, and list the numbers of inputs that ended the process, hung or took too much memory."""
    valid, shared = seeds(reader), mmap.mmap(-1, mmap.PAGESIZE)
    counts: Counter[str] = Counter()
    bad: list[int] = []
    number = 0
    with tempfile.TemporaryFile("w+") as told:
        while number < inputs:
            _SLOTS.pack_into(shared, 0, number, 0.0)  # it begins when everything is imported
            child = os.fork()
            if child == 0:
                _work(peer, reader, seed, number, inputs, valid, shared, told.fileno())
            how = _wait(child, shared)
            number, _ = _SLOTS.unpack_from(shared)
            if how:
                counts[how] += 1
                bad.append(number)
                number += 1
        told.seek(0)
        for line in told:
            outcome, at = line.split()
            counts[outcome] += 1
            bad += [int(at)] if outcome == "memory" else []
    return counts, sorted(bad)


def _wait(child: int, shared: mmap.mmap) -> str:
    last, looks = 0.0, 0
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return "crash" if status else ""
        _, began = _SLOTS.unpack_from(shared)
        last, looks = began, looks + 1 if began == last != 0 else 0
        if looks * 0.05 > _SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang"
        time.sleep(0.05)


def _work(
    peer: str, reader: str, seed: int, number: int, inputs: int, valid: dict[str, Case], shared: mmap.mmap, told: int
) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    load = PEERS[peer][1]()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    work = Path(tempfile.mkdtemp(dir="/dev/shm"))
    save_case(work / "x" / "case", next(iter(valid.values())))
    _try(load, entry(reader, work / "x" / "case", next(iter(valid.values()))))  # what is loaded only once
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, used + _ADDRESS_SPACE))
    for at in range(number, inputs):
        _SLOTS.pack_into(shared, 0, at, time.monotonic())
        _, case, _ = make_case(reader, seed, at, valid)
        save_case(work / "x" / "case", {name: c for name, c in case.items() if isinstance(c, bytes)} or case)
        size = sum(len(content) for content in case.values() if isinstance(content, bytes))
        before = _reset_peak()
        outcome = _try(load, entry(reader, work / "x" / "case", case))
        if outcome != "memory" and _peak() - before > 4 * size + EXTRA_BYTES:
            outcome = "memory"
        os.write(told, f"{outcome} {at}\n".encode())
    _SLOTS.pack_into(shared, 0, inputs, time.monotonic())
    os._exit(0)


def _try(load: Callable[[Path], Any], path: Path) -> str:
    try:
        load(path)
    except MemoryError:
        return "memory"
    except BaseException:
        return "error"
    return "loads"


def main() -> None:
    """Print a table for docs/security.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--peer", choices=PEERS)
    options = parser.parse_args()
    print("| inputs of | library |", " | ".join(OUTCOMES), "| which crash, hang or take memory |")
    print("|---|---|" + "---|" * (len(OUTCOMES) + 1))
    for reader in READERS:
        for peer, (readers, _) in PEERS.items():
            if reader in readers and options.peer in (None, peer):
                counts, bad = compare(peer, reader, options.inputs, options.seed)
                numbers = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
                print(f"| {reader} | {peer} | {numbers} | {', '.join(map(str, bad[:8]))} |")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
