"""Conversions that are killed, or whose disk is full, at any moment: no half output ever has the final name."""

import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from cases import counts
from disk import largest_file
from written import WRITTEN

import zoo
from zoo.core.output import atomic_output
from zoo.errors import OutputError

CONFIG = zoo.GPTConfig(vocab_size=9973, context_length=131, width=140, n_heads=7, n_layers=5)
OLD = b"what was there before"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A zoo file of 10 MB of a model that every format can hold."""
    path = tmp_path_factory.mktemp("storms") / "source.safetensors"
    zoo.save(zoo.create(CONFIG, seed=11), path)
    return path


def files(path):
    """What is at a path: bytes, or names and bytes."""
    if path.is_dir():
        return {str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("format", WRITTEN)
def test_a_disk_that_fills_at_any_byte_leaves_what_was_there(source, tmp_path, format, existed):
    """Every format, cut at the first byte, the last, and at random ones: one sentence, and nothing new on the disk."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    zoo.convert(source, whole, to=format)
    largest = max(each.stat().st_size for each in [whole, *whole.rglob("*")] if each.is_file())
    chance = random.Random(format)
    limits = [0, 1, largest - 1, *(chance.randrange(largest) for _ in range(5))]
    if existed:
        out.write_bytes(OLD)
    for limit in limits:
        with largest_file(limit), pytest.raises(OutputError, match="was not written"):
            zoo.convert(source, out, to=format, force=existed)
        assert (OLD if existed else None) == files(out)
        assert {"whole", *(["out"] if existed else [])} == set(os.listdir(tmp_path))
    counts["conversions on a full disk"] += len(limits)

    zoo.convert(source, out, to=format, force=existed)
    assert files(whole) == files(out)


CONVERT = """
import sys
from zoo import convert
print(flush=True)
convert(*sys.argv[1:3], to=sys.argv[3], force=True)
"""


def convert_until(source, out, format, seconds):
    """Convert in a process that is killed after some seconds; returns the seconds it had, and whether it ended."""
    command = [sys.executable, "-c", CONVERT, str(source), str(out), format]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        began = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
    return time.monotonic() - began, process.returncode == 0


def kill_at_random(source, directory, format, times):
    """Kill a converting process at random moments; returns how often, and how often it had replaced the output."""
    out, whole = directory / "out", directory / "whole"
    seconds = sorted(convert_until(source, whole, format, 60)[0] for _ in range(3))[1]
    expected, chance, killed, replaced = files(whole), random.Random(format), 0, 0
    for _ in range(times):
        if not out.exists() or files(out) == expected:
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
            out.write_bytes(OLD)
        killed += not convert_until(source, out, format, chance.random() * seconds)[1]
        replaced += files(out) == expected
        aside = [each for each in directory.iterdir() if each.name.endswith(".old")]
        # A directory takes two renames: between them what was there lies beside, and comes back with the next call.
        assert files(out) in (OLD, expected) or (files(out) is None and [OLD] == [files(each) for each in aside])
    with atomic_output(out, force=True) as temporary:
        temporary.write_bytes(OLD)
    assert {"out", "whole"} == set(os.listdir(directory))  # nothing of the killed is left
    counts["conversions killed"] += killed
    return killed, replaced


@pytest.mark.parametrize("format", ["zoo", "huggingface"])
def test_a_killed_conversion_leaves_the_old_output_or_the_new(source, tmp_path, format):
    """SIGKILL at random moments, for a file and for a directory; the next conversion removes what was left."""
    assert kill_at_random(source, tmp_path, format, 6)[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("format", ["zoo", "huggingface", "openai", "book", "gguf", "llm.c"])
def test_a_conversion_killed_often_leaves_the_old_output_or_the_new(source, tmp_path, format):
    """SIGKILL at fifty random moments each."""
    assert kill_at_random(source, tmp_path, format, 50)[0] > 25
