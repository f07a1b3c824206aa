"""Time conversions beside what they cannot beat and what they replace, alternately, and print ratios of medians.

    python benchmarks/convert.py models/124M models/355M [--rounds 7] [--json]

Each directory is one that benchmarks/make_checkpoint.py wrote. Measured as whole commands, start-up included:

    floor     cp of the data file, and a CRC32C pass over it
    convert   zoo convert --from openai, with and without --no-verify
    book      a Python process that loads each tensor with tf.train.load_variable, as the book does (few rounds)

and inside one process, imports aside: zoo.load of the converted file, and transformers' from_pretrained of the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np

import zoo

DATA = "model.ckpt.data-00000-of-00001"
BOOK = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
path = tf.train.latest_checkpoint(sys.argv[1])
for name, _ in tf.train.list_variables(path):
    tf.train.load_variable(path, name)
"""


def seconds(work: Callable[[], object]) -> float:
    """Return the time of a call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run(*command: object) -> None:
    """Run a command, which must succeed, without its output."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def commands(source: Path, work: Path) -> dict[str, Callable[[], object]]:
    """Return the commands to measure, by name."""
    zoo_command = Path(sys.executable).with_name("zoo")
    out = work / "out.safetensors"

    def floor() -> None:
        run("cp", source / DATA, work / "copy")
        google_crc32c.value(np.memmap(source / DATA, np.uint8, "r"))

    words = ("convert", "-q", "--from", "openai", "--source", source, "--out", out)

    def convert(*options: str) -> Callable[[], None]:
        return lambda: run(zoo_command, *words, *options)

    return {"floor": floor, "convert --no-verify": convert("--no-verify"), "convert": convert()}


def loads(work: Path) -> dict[str, Callable[[], object]]:
    """Return the calls to measure in this process, by name."""
    from transformers import GPT2LMHeadModel

    return {
        "zoo.load": lambda: zoo.load(work / "out.safetensors"),
        "transformers": lambda: GPT2LMHeadModel.from_pretrained(work / "hf"),
    }


def alternate(timed: dict[str, Callable[[], object]], rounds: int, *outputs: Path) -> dict[str, list[float]]:
    """Run everything once as a warm-up, then alternately, so that other load affects all alike; outputs are removed
    between the runs.
    """
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 1):
        for name, work in timed.items():
            for path in outputs:
                path.unlink(missing_ok=True)
            times[name].append(seconds(work))
    return {name: values[1:] for name, values in times.items()}


def measure(source: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Measure one checkpoint: median seconds, spread, and the ratio to the first of the group."""
    work = Path(tempfile.mkdtemp(dir=source.parent))
    try:
        times = alternate(commands(source, work), rounds, work / "copy", work / "out.safetensors")
        times |= alternate({"book": lambda: run(sys.executable, "-c", BOOK, source)}, min(rounds, 3))
        zoo.convert(work / "out.safetensors", work / "hf", to="huggingface")
        times |= alternate(loads(work), rounds)
    finally:
        shutil.rmtree(work)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "seconds": medians[name],
            "fastest": min(values),
            "slowest": max(values),
            "times_floor": medians[name] / medians["floor"],
        }
        for name, values in times.items()
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {str(source): measure(source, arguments.rounds) for source in arguments.sources}
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for source, rows in results.items():
        print(f"\n{source}\n{'':22}{'median s':>10}{'fastest':>10}{'slowest':>10}{'x floor':>10}")
        for name, row in rows.items():
            print(f"{name:22}" + "".join(f"{value:10.3f}" for value in row.values()))
        print(f"book / convert (verified): {rows['book']['seconds'] / rows['convert']['seconds']:.1f}")
        print(f"transformers / zoo.load:   {rows['transformers']['seconds'] / rows['zoo.load']['seconds']:.1f}")


if __name__ == "__main__":
    main()
