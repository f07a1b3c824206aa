import errno
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from strategies import configs

import zoo
from zoo import make_plan
from zoo.core.memory import PeakMemory, anonymous_bytes
from zoo.core.tensors import LazyTensor
from zoo.errors import (
    CannotHold,
    ConfigError,
    FormatError,
    MissingWeights,
    OptionError,
    OutputError,
    UnknownName,
    VerificationFailed,
)
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, dropout=0.25)
N_TENSORS, NBYTES = len(CONFIG.parameter_shapes()), 4 * CONFIG.n_parameters


@pytest.fixture
def source(tmp_path):
    """A zoo file of a small model."""
    path = tmp_path / "source.safetensors"
    zoo.save(zoo.create(CONFIG, seed=11), path)
    return path


def only(directory, *names):
    """Whether a directory holds just these names: no temporary file was left."""
    return sorted(names) == sorted(os.listdir(directory))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(config=configs())
def test_a_saved_model_loads_as_it_was(tmp_path, config):
    """zoo.save and zoo.load keep the config and every bit of every parameter."""
    model = zoo.create(config, seed=3)
    zoo.save(model, tmp_path / "m.safetensors", force=True)
    again = zoo.load(tmp_path / "m.safetensors")

    assert config == again.config
    assert list(model.state_dict()) == list(again.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_loaded_model_can_be_trained_without_changing_its_file(source):
    """Weights are mapped privately: a step changes the model, not the file."""
    before = source.read_bytes()
    model = zoo.load(source)
    with torch.no_grad():
        model.tok_emb.weight += 1.5

    assert before == source.read_bytes()
    assert not torch.equal(model.tok_emb.weight, zoo.load(source).tok_emb.weight)


def test_loading_casts_when_asked(source):
    """dtype="bfloat16" gives weights that are torch's own cast of the file's."""
    plain, cast = zoo.load(source), zoo.load(source, dtype="bfloat16")

    assert torch.equal(plain.pos_emb.weight.bfloat16(), cast.pos_emb.weight)


def test_loading_maps_instead_of_copying(tmp_path):
    """Loading a file takes a small part of its size in anonymous memory."""
    config = CONFIG.replace(vocab_size=50_000, vocab_rows=0, width=300, inner_width=0)
    path = tmp_path / "big.safetensors"
    zoo.save(zoo.create(config), path)
    zoo.load(path)
    with PeakMemory() as memory:
        zoo.load(path)

    assert anonymous_bytes() is None or path.stat().st_size / 10 > memory.peak


def test_the_report_says_what_was_done(source, tmp_path):
    """A report has counts, formats, notes and provenance, all plain JSON."""
    report = zoo.convert(source, tmp_path / "out", to="openai")

    assert (
        report.source_format,
        report.target_format,
        report.tied,
        report.lossless,
        report.verified,
    ) == ("zoo", "openai", True, True, True)
    assert (CONFIG.n_parameters, 4 * CONFIG.n_parameters) == (report.n_parameters, report.bytes_written)
    assert report.notes == ["the format does not store dropout: 0.25 will read as 0.1"]
    assert report.to_dict() == json.loads(json.dumps(report.to_dict()))


def test_the_same_source_gives_the_same_bytes(source, tmp_path):
    """Two conversions at different times and under different names are equal byte for byte."""
    for name in ("one", "two"):
        zoo.convert(source, tmp_path / f"{name}.safetensors")
        time.sleep(0.01)

    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_provenance_names_the_files_it_came_from(source, tmp_path):
    """The output records format and BLAKE3 hash of its source, and what the source recorded of its own."""
    zoo.convert(source, tmp_path / "hf", to="huggingface")
    zoo.convert(tmp_path / "hf", tmp_path / "again.safetensors")
    provenance = open_path(tmp_path / "again.safetensors")[1].provenance
    expected = blake3(source.read_bytes()).hexdigest()

    assert provenance["source_format"] == "huggingface"
    assert {"config.json", "model.safetensors"} == set(provenance["source_blake3"])
    assert {"source.safetensors": expected} == provenance["source_provenance"]["source_blake3"]


@pytest.mark.parametrize(("dtype", "lossless"), [("bfloat16", False), ("float16", False), ("float32", True)])
def test_a_cast_is_torchs_and_is_reported(source, tmp_path, dtype, lossless):
    """--dtype casts as torch does, and the report says so and whether anything was lost."""
    report = zoo.convert(source, tmp_path / "cast.safetensors", dtype=dtype)
    cast, plain = zoo.load(tmp_path / "cast.safetensors"), zoo.load(source)

    assert lossless == report.lossless
    assert ({} if lossless else {f"float32 -> {dtype}": N_TENSORS}) == report.cast
    assert torch.equal(plain.tok_emb.weight.to(getattr(torch, dtype)), cast.tok_emb.weight)


def test_a_widening_cast_is_lossless(source, tmp_path):
    """bfloat16 to float32 is a cast, but nothing is lost by it."""
    zoo.convert(source, tmp_path / "small.safetensors", dtype="bfloat16")
    report = zoo.convert(tmp_path / "small.safetensors", tmp_path / "wide.safetensors", dtype="float32")

    assert (report.lossless, report.cast) == (True, {"bfloat16 -> float32": N_TENSORS})


def test_a_plan_shows_every_step_and_writes_nothing(source, tmp_path):
    """make_plan names source, operation, target, shapes and dtype of every parameter, before anything is written."""
    plan = make_plan(source, "book", dtype="bfloat16")
    steps = {step.ours: step for step in plan.steps()}
    qkv, same = steps["blocks.1.attn.qkv.weight"], steps["blocks.1.attn.out.weight"]

    assert qkv.sources == {"blocks.1.attn.qkv.weight": (90, 30)}
    assert qkv.operation == "(n o) i -> n o i"
    assert list(qkv.targets.values()) == [(30, 30)] * 3
    assert (same.operation, same.dtype) == ("copy", "float32 -> bfloat16")
    assert "out_head.weight" in plan.added()
    assert plan.to_dict()["config"] == CONFIG.to_dict()
    assert json.dumps(plan.to_dict())
    assert only(tmp_path, "source.safetensors")


def test_a_wrong_size_is_refused_by_its_first_difference(source, tmp_path):
    """--size 355M on another model says which field differs."""
    with pytest.raises(ConfigError, match=r"is not 355M: it has vocab_size 97 .not 50257"):
        zoo.convert(source, tmp_path / "out.safetensors", size="355M")

    assert only(tmp_path, "source.safetensors")


def test_what_a_format_cannot_hold_is_refused_with_every_reason(source, tmp_path):
    """An untied, bias-free model in OpenAI's format is refused before anything is written."""
    odd = tmp_path / "odd.safetensors"
    zoo.save(zoo.create(CONFIG.replace(tied=False, bias=False)), odd)
    with pytest.raises(CannotHold, match=r"openai cannot hold.*no place for bias False.*no place for tied False"):
        zoo.convert(odd, tmp_path / "out", to="openai", strict=True)

    assert only(tmp_path, "source.safetensors", "odd.safetensors")


def test_an_existing_output_is_kept_unless_forced(source, tmp_path):
    """Without force an output that exists is an error; with it, a file or a directory is replaced as a whole."""
    out = tmp_path / "out"
    zoo.convert(source, out, to="huggingface")
    (out / "stranger").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        zoo.convert(source, out, to="huggingface")
    assert (out / "stranger").exists()
    zoo.convert(source, out, to="huggingface", force=True)

    assert not (out / "stranger").exists()
    assert only(tmp_path, "source.safetensors", "out")


def test_a_missing_directory_is_told_before_work(source, tmp_path):
    """An output in a directory that is not there is refused at once."""
    with pytest.raises(OutputError, match="there is no directory"):
        zoo.convert(source, tmp_path / "no" / "out.safetensors")


def test_a_suffix_that_means_no_format_asks_for_one(source, tmp_path):
    """Without --to, a name must say the format."""
    with pytest.raises(OptionError, match="name one with"):
        zoo.convert(source, tmp_path / "out.xyz")


def test_a_misspelt_dtype_or_format_offers_the_nearest(source, tmp_path):
    """Wrong names of dtypes and formats are answered with right ones."""
    with pytest.raises(UnknownName, match="did you mean bfloat16"):
        zoo.convert(source, tmp_path / "out.safetensors", dtype="bfloat61")
    with pytest.raises(UnknownName, match="did you mean huggingface"):
        zoo.convert(source, tmp_path / "out", to="hugingface")


def test_sharding_one_file_is_refused(source, tmp_path):
    """A limit of shard size is for formats that shard."""
    with pytest.raises(OptionError, match="zoo is one file"):
        zoo.convert(source, tmp_path / "out.safetensors", max_shard_bytes=1000)


def test_a_full_disk_leaves_the_old_file(source, tmp_path, monkeypatch):
    """When writing fails half way, the error says so, the old output is intact, and nothing else is left."""
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")

    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="was not written: the disk is full"):
        zoo.convert(source, out, force=True)

    assert out.read_bytes() == b"old"
    assert only(tmp_path, "source.safetensors", "out.safetensors")


def test_a_disk_that_is_too_small_is_told_before_writing(source, tmp_path, monkeypatch):
    """The size of the output is compared with the free space first."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match="has 10 bytes free, and 148,920 more are needed"):
        zoo.convert(source, tmp_path / "out.safetensors")

    assert only(tmp_path, "source.safetensors")


def test_verification_finds_a_writer_that_forgets_a_transpose(source, tmp_path, monkeypatch):
    """A square matrix written the wrong way round passes every shape check, and fails the comparison."""
    from zoo.converters import huggingface

    honest = huggingface.write_safetensors

    def forgetful(path, tensors, *rest):
        name = "transformer.h.1.attn.c_proj.weight"
        wrong = LazyTensor.of(np.ascontiguousarray(tensors[name].load().T))
        honest(path, {**tensors, name: wrong}, *rest)

    monkeypatch.setattr(huggingface, "write_safetensors", forgetful)
    with pytest.raises(VerificationFailed, match="blocks.1.attn.out.weight in the output differs"):
        zoo.convert(source, tmp_path / "out", to="huggingface")

    assert only(tmp_path, "source.safetensors")


def test_a_killed_conversion_leaves_nothing_under_the_final_name(source, tmp_path):
    """Kill -9 in the middle of writing leaves no output; the next conversion works."""
    out = tmp_path / "out.safetensors"
    program = (
        "import os, sys, time, zoo, zoo.conversion.run\n"
        "zoo.conversion.run.compare = lambda *a: (print('written', flush=True), time.sleep(60))\n"
        f"zoo.convert({str(source)!r}, {str(out)!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()

    assert not out.exists()
    assert zoo.convert(source, out).verified


def test_an_interrupt_cleans_up(source, tmp_path, monkeypatch):
    """Ctrl-C in the middle leaves neither an output nor a temporary file."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.conversion.run.compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        zoo.convert(source, tmp_path / "out.safetensors")

    assert only(tmp_path, "source.safetensors")


def test_progress_counts_up_to_all_bytes_of_each_phase(source, tmp_path):
    """on_progress hears of writing, then of verifying, and ends at the total each time."""
    heard = []
    zoo.convert(source, tmp_path / "out.safetensors", on_progress=lambda *event: heard.append(event))
    last = {phase: (done, total) for phase, done, total in heard}

    assert last == {"write": (NBYTES, NBYTES), "verify": (NBYTES, NBYTES)}
    assert list(dict.fromkeys(phase for phase, _, _ in heard)) == ["write", "verify"]


def test_a_name_without_weights_says_how_to_get_them():
    """A registered name cannot be opened as a file: the error says how to get one."""
    with pytest.raises(
        MissingWeights, match=r"weights of gpt2-medium are not on this machine.*zoo download gpt2-medium --to DIR"
    ):
        zoo.load("355M")
    with pytest.raises(UnknownName, match="did you mean gpt2-small"):
        zoo.load("gpt2-smal")
    with pytest.raises(FormatError, match="no such file"):
        zoo.load("./gpt2-small")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer.*git lfs pull"),
        (b"hello, I am a text", "is in no format that zoo knows"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_what_it_is(tmp_path, content, words):
    """Unknown files, empty files and Git LFS pointers are each named as what they are."""
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(FormatError, match=words):
        zoo.load(tmp_path / "file.bin")


def test_a_directory_that_is_no_checkpoint_says_what_is_in_it(tmp_path):
    """The message lists what was found instead."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match=r"without a checkpoint that zoo recognises \(it has notes.txt\)"):
        zoo.load(tmp_path)


def test_a_tied_copy_that_differs_is_a_head_of_its_own(tmp_path, source):
    """A copy of the embedding that is none is never dropped, whatever config.json says: the head is kept, and said."""
    from zoo.containers.safetensors import read_safetensors, write_safetensors

    zoo.convert(source, tmp_path / "hf", to="huggingface")
    weights = tmp_path / "hf" / "model.safetensors"
    tensors, _ = read_safetensors(weights)
    other = tensors["transformer.wte.weight"].load() + np.float32(0.5)
    write_safetensors(tmp_path / "new", {**tensors, "lm_head.weight": LazyTensor.of(other)}, {"format": "pt"})
    os.replace(tmp_path / "new", weights)
    report = zoo.convert(tmp_path / "hf", tmp_path / "o.safetensors")

    assert not report.tied
    assert any("lm_head.weight differs from the embedding" in note for note in report.notes)
    np.testing.assert_array_equal(zoo.load(tmp_path / "o.safetensors").head.weight.detach().numpy(), other)


def test_very_many_source_files_have_one_hash(tmp_path, source):
    """A source of a hundred shards is recorded by one hash of all, so that the record stays short."""
    zoo.convert(source, tmp_path / "hf", to="huggingface", max_shard_bytes=1)
    zoo.convert(tmp_path / "hf", tmp_path / "again.safetensors")
    provenance = open_path(tmp_path / "again.safetensors")[1].provenance

    assert ["42 files"] == list(provenance["source_blake3"])
