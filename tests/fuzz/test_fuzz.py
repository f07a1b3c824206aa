"""Hostile files: what once went wrong, what means more than it says, and whatever hypothesis and the driver make up.

Longer runs: docs/security.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.bombs import BOMBS
from fuzz.cases import READERS, Link, Pipe, pack, regressions, save_case, seeds, unpack
from fuzz.mutate import mutate
from fuzz.run import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.errors import FormatError, UnsafeFile, ZooError
from zoo.formats.opening import open_path

CHECK = """
import sys, tempfile
from pathlib import Path
from fuzz.bombs import BOMBS
from fuzz.cases import load_case, regressions
from fuzz.run import limit_memory
from fuzz.watch import Broken, Watch

with tempfile.TemporaryDirectory() as work:
    watch, formats = Watch(Path(work)), {}
    if sys.argv[1] == "regressions":
        cases = [(name, *found) for name, found in regressions().items()]
    else:
        cases = [(f"{name} {size}", reader, make(size)) for name, (reader, make) in BOMBS.items()
                 for size in (300_000, 4_000_000)]
    for _, reader, _ in cases:
        formats.setdefault(reader, watch.warm_up(reader))
    limit_memory()
    for name, reader, case in cases:
        found = formats[reader]
        format = next((found[seed] for seed in found if seed in name), next(iter(found.values())))
        if reader == "json":
            format = "openai" if "encoder.json" in case else "huggingface"
        try:
            watch.check(reader, case, format, deep=sys.argv[1] == "regressions")
        except Broken as broken:
            print(f"{name}: {broken}", file=sys.stderr)
        print(name)
"""


@pytest.mark.long
@pytest.mark.parametrize("what", ["regressions", "bombs"])
def test_what_once_went_wrong_is_refused_or_harmless(what):
    """Every kept input, and every file that means more than it says, keeps all promises (see fuzz/watch.py)."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", CHECK, what], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )

    assert "" == done.stderr
    assert 0 == done.returncode
    assert (len(regressions()) if what == "regressions" else 2 * len(BOMBS)) == len(done.stdout.splitlines())


@pytest.mark.parametrize("reader", READERS)
def test_a_short_run_finds_nothing(tmp_path, reader):
    """Some hundred inputs of the driver, in a process of its own: no promise is broken, nothing dies or hangs."""
    tally = fuzz(reader, 90, seed=1, findings=tmp_path, most=400)

    assert {} == dict(tally.findings)
    assert 400 == tally.inputs
    assert 0 < tally.accepted < 400


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("case")


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60)
@given(random=st.randoms(use_true_random=False))
def test_any_damage_is_refused_or_harmless(place, reader, random):
    """Whatever is done to a valid checkpoint: a ZooError, or tensors of the shapes and dtypes that were told."""
    valid = seeds(reader)
    name = random.choice(sorted(valid))
    case = mutate(random, reader, valid[name], list(valid.values()))
    save_case(place / "x", case)
    entry = READERS[reader].entry
    try:
        _, checkpoint = open_path(place / "x" / (next(iter(case)) if entry == "*" else entry))
        arrays = {name: (tensor, tensor.load()) for name, tensor in checkpoint.tensors.items()}
    except ZooError:
        return

    assert [(a.shape, a.dtype) for _, a in arrays.values()] == [(t.shape, t.dtype) for t, _ in arrays.values()]


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        ("json", "config.json"),
        ("json", "tokenizer.json"),
        ("tf", "encoder.json"),
        ("tf", "vocab.bpe"),
        ("tf", "hparams.json"),
        ("tf", "model.ckpt.index"),
        ("tf", "model.ckpt.data-00000-of-00001"),
        ("shards", "model-00002-of-00003.safetensors"),
        ("flax", "flax_model.msgpack"),
        ("hdf5", "model.weights.h5"),
        ("hdf5", "assets/tokenizer/merges.txt"),
        ("sharded", "__0_0.distcp"),
        ("peft", "adapter/adapter_model.safetensors"),
    ],
)
def test_links_out_of_the_directory_and_pipes_are_not_opened(tmp_path, reader, name):
    """A file that is a link to elsewhere is refused even if it is the right one; a pipe would wait for ever."""
    case = next(case for case in seeds(reader).values() if name in case)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(case[name])
    folder = tmp_path / "case" / READERS[reader].entry
    for content, problem, message in (
        (Link(str(elsewhere)), UnsafeFile, "outside its directory"),
        (Link("/dev/zero"), FormatError, name.rpartition("/")[2]),
        (Link(name.rpartition("/")[2]), FormatError, name.rpartition("/")[2]),
        (Pipe(), FormatError, name.rpartition("/")[2]),
    ):
        save_case(tmp_path / "case", {**case, name: content})
        with pytest.raises(problem, match=message):
            open_path(folder, format=FORMATS[reader])


FORMATS = {"json": "huggingface", "tf": "openai", "shards": "huggingface", "flax": "flax", "hdf5": "keras-hub"}
FORMATS |= {"sharded": "sharded", "peft": "peft"}


def test_links_of_the_hub_cache_and_of_the_user_are_followed(tmp_path):
    """snapshots/REVISION of huggingface_hub links to blobs beside it, and whoever names a link means its file."""
    case = seeds("shards")["huggingface"]
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    for i, (name, content) in enumerate(case.items()):
        save_case(tmp_path / "models--x" / "blobs" / str(i), {"blob": content})
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(f"../../blobs/{i}/blob")
    save_case(tmp_path / "one", seeds("safetensors")["float32"])
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "one" / "m.safetensors")

    assert zoo.load(snapshot).config == zoo.load(tmp_path / "link.safetensors").config


def test_names_in_a_file_do_not_steer_the_terminal(tmp_path):
    """Escape sequences in tensor names, in tables and in errors, are shown as text."""
    _, case = regressions()["safetensors-escape-sequence-in-a-name"]
    save_case(tmp_path / "case", case)
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "inspect", str(tmp_path / "case" / "m.safetensors")],
        capture_output=True,
        text=True,
    )

    assert 1 == done.returncode
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\x1b[2Jx" in done.stdout
    assert r"\x1b[2Jx" in done.stderr


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    """Whatever the system says against opening a file is one sentence, not a traceback."""
    save_case(tmp_path / "case", seeds("llmc")["float32"])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FormatError, match=r"m.bin: cannot be read \(Permission denied\)"):
        open_path(tmp_path / "case" / "m.bin")


def test_a_case_survives_packing():
    """What atheris mutates is the case again."""
    case = seeds("tf")["openai"]

    assert case == unpack(pack(case))
    assert {} == unpack(json.dumps({}).encode())


def test_a_short_run_of_command_lines_finds_nothing(tmp_path):
    """Some commands with odd options and inputs: an answer or a sentence, no traceback."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.command_line", "--lines", "150", "--seconds", "60", "--seed", "3"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert "" == done.stderr
    assert 0 == done.returncode
