"""The commands train, eval and data, as a user calls them."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from disk import largest_file

import zoo
from zoo.train.data.tokens import open_tokens

SMALL = {"context_length": 23, "width": 30, "n_heads": 5, "n_layers": 2, "dropout": 0.1}
FEW = ["--steps", "6", "--batch-size", "4", "--context", "13", "--eval-every", "3", "--save-every", "2", "--lr", "0.01"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with a text and a config."""
    path = tmp_path_factory.mktemp("files")
    (path / "text.txt").write_text("Every effort moves you a little forward, and every step moves you too. " * 20)
    (path / "small.json").write_text(json.dumps(SMALL))
    return path


@pytest.fixture
def begun(run, files, tmp_path):
    """A finished run."""
    out = tmp_path / "run"
    code, *_ = run("train", files / "text.txt", "--size", files / "small.json", "--out", out, "-q", *FEW)
    assert code == 0
    return out


def test_training_from_scratch_makes_a_model_that_speaks(run, files, tmp_path):
    """The run says what it does and how it went, and every command takes its directory for a model."""
    out = tmp_path / "run"
    more = ["--sample-every", "6", "--sample-prompt", "Every"]
    code, text, err = run("train", files / "text.txt", "--size", files / "small.json", "--out", out, *FEW, *more)
    assert code == 0
    assert f"{out}: done after step 6 of 6, validation loss" in text
    assert "6 steps of 4 x 13 tokens" in err
    assert "sample after step 6: Every" in err

    code, text, _ = run("generate", "--model", out, "-n", 3, "--seed", 1, "Every")
    assert (code, text[:5]) == (0, "Every")
    assert 0 == run("convert", "--source", out, "--to", "openai", "--out", tmp_path / "openai")[0]
    assert 0 == run("inspect", out)[0]
    assert 0 == run("plot", "losses", out)[0]
    assert (out / "loss.png").stat().st_size > 5000


def test_a_finished_run_says_so_and_json_is_for_scripts(run, begun):
    """--resume of a run at its end changes nothing."""
    code, text, err = run("train", "--resume", begun, "--json")
    found = json.loads(text)
    assert (0, "done", 6, 6) == (code, found["ended"], found["step"], found["steps"])
    assert found["best_loss"] <= found["val_loss"] or found["val_loss"] is None
    assert "has done all its 6 steps already" in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lr", "0.5"], "--lr (was 0.01, now 0.5)"),
        (["--clip", "9", "--seed", "3"], "--clip (was 1.0, now 9.0), --seed (was 0, now 3)"),
        (["other.txt", "--model", "x"], "--model, the text;"),
        (["--val-fraction", "0.2", "--field", "body", "--init", "book"], "--val-fraction, --field, --init;"),
        (["--lora-rank", "3", "--lora-dropout", "0.1"], "--lora-rank, --lora-dropout;"),
    ],
)
def test_a_run_does_not_resume_with_other_settings(run, begun, more, words):
    """The message names each that differs, and how to resume with them."""
    code, _, err = run("train", "--resume", begun, *more)
    assert code == 1
    assert words in err
    assert f"start another run with --model {begun}" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["TEXT", "--size", "SIZE"], 2, "Missing option '--out'"),
        (["TEXT", "--out", "new"], 2, "Give either --model, to fine-tune it, or --size"),
        (["--size", "SIZE", "--out", "new"], 1, "there is no text to train on"),
        (["none.txt", "--size", "SIZE", "--out", "new"], 1, "none.txt: there is no such file"),
        (["TEXT", "--size", "SIZE", "--out", "new", "--context", "99"], 1, "use at most 23"),
        (["TEXT", "--size", "SIZE", "--out", "."], 1, "exists already"),
        (["TEXT", "--size", "SIZE", "--out", "new", "--lr", "-1"], 2, "Invalid value for '--lr'"),
        (["TEXT", "--model", "gpt2-small", "--out", "new"], 1, "gpt2-small"),
        (["TEXT", "--size", "SIZE", "--out", "new", "--fsdp", "--average", "0.2"], 1, "fsdp excludes average"),
        (["TEXT", "--size", "SIZE", "--out", "new", "--lora-rank", "2"], 2, "--lora-rank needs --model"),
        (["--resume", "."], 1, "is not a run of zoo train"),
    ],
)
def test_calls_that_cannot_be_are_answered(run, files, tmp_path, monkeypatch, arguments, code, words):
    """One line on stderr, and no directory of a run."""
    monkeypatch.chdir(tmp_path)
    named = {"TEXT": files / "text.txt", "SIZE": files / "small.json"}
    found, out, err = run("train", *(named.get(argument, argument) for argument in arguments))
    assert (code, "") == (found, out)
    assert words in err
    assert code == 2 or len(err.splitlines()) <= 2


def test_short_text_gets_the_books_advice(run, files, tmp_path):
    """Text shorter than a window: more text, a shorter context, or another fraction."""
    (tmp_path / "short.txt").write_text("Every effort moves you.")
    size = files / "small.json"
    code, _, err = run("train", tmp_path / "short.txt", "--size", size, "--out", tmp_path / "run", *FEW)
    assert code == 1
    assert "give more text, a shorter context or another validation fraction" in err


def test_prepared_tokens_train_and_evaluate_as_their_text(run, files, tmp_path):
    """`zoo data prepare` writes what train and eval make of text themselves, for llm.c after one <|endoftext|>."""
    out = tmp_path / "text.bin"
    code, text, _ = run("data", "prepare", files / "text.txt", "--out", out, "--processes", 1)
    ids = zoo.Tokenizer().encode((files / "text.txt").read_text())
    assert (code, text) == (0, f"{out}: {len(ids) + 1:,} tokens of 1 document, llm.c's layout\n")
    assert [50256, *ids] == open_tokens(out).tolist()
    nano = tmp_path / "nano.bin"
    run("data", "prepare", files / "text.txt", "--out", nano, "--layout", "nanogpt", "--json")
    assert ids == np.fromfile(nano, np.uint16).tolist()
    losses = []
    for source, name in ((nano, "a"), (files / "text.txt", "b")):
        more = ["--val", files / "text.txt", "--json"]
        size = files / "small.json"
        _, text, _ = run("train", source, "--size", size, "--out", tmp_path / name, *FEW, *more)
        losses.append(json.loads(text)["val_loss"])
    assert losses[0] == losses[1] < 11


def test_eval_reports_loss_perplexity_and_bits_per_byte(run, begun, files):
    """The three are the same number in three units; a smaller stride gives each token more context."""
    code, text, _ = run("eval", "--model", begun, files / "text.txt", "--json")
    found = json.loads(text)
    n_bytes = (files / "text.txt").stat().st_size
    n_tokens = len(zoo.Tokenizer().encode((files / "text.txt").read_text())) - 1
    assert (0, n_bytes, n_tokens) == (code, found["bytes"], found["tokens"])
    assert math.isclose(found["perplexity"], math.exp(found["loss"]))
    assert math.isclose(found["bits_per_byte"], found["loss"] * n_tokens / n_bytes / math.log(2))

    code, text, _ = run("eval", "--model", begun, files / "text.txt", "--stride", 4)
    assert code == 0
    assert "nats per token" in text
    assert "bits per byte" in text


def test_eval_reads_stdin_and_refuses_nothing_to_predict(run, begun):
    """- is stdin; one token predicts nothing."""
    assert 0 == run("eval", "--model", begun, "-", stdin="Every effort moves you")[0]
    code, _, err = run("eval", "--model", begun, "-", stdin="x")
    assert code == 1
    assert "fewer than two tokens" in err


def torchrun(*arguments):
    """Run zoo in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "zoo"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def spread(*arguments):
    """Run zoo in two processes that end well, and return what they said."""
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("kind", [[], ["--fsdp"]])
def test_two_processes_train_what_one_trains(run, files, tmp_path, kind):
    """Under torchrun, DDP and FSDP2 follow one process to 1e-5, and their run is a model, too.

    Steps of five windows and validation in three batches do not come out even; the samples are the same text.
    """
    options = ["--size", files / "small.json", *FEW, "--dtype", "float32", "--dropout", "0", "--micro-batch-size", "1"]
    options += ["--batch-size", "5", "--sample-every", "3", "--sample-tokens", "9"]
    arguments = ["train", files / "text.txt", *options, "--out"]
    code, _, said = run(*arguments, tmp_path / "one")
    assert 0 == code
    heard = spread(*arguments, tmp_path / "two", *kind)
    samples = [[line for line in text.splitlines() if line.startswith("sample")] for text in (said, heard)]
    assert 2 == len(samples[0]) == len(set(samples[0]))
    assert samples[0] == samples[1]
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "two")]
    one, two = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert len(one) == len(two) == 6
    for a, b in zip(one, two, strict=True):
        assert math.isclose(a["train_loss"], b["train_loss"], abs_tol=1e-5)
        assert a["tokens"] == b["tokens"]
    assert math.isclose(one[-1]["val_loss"], two[-1]["val_loss"], abs_tol=1e-5)
    assert zoo.load(tmp_path / "two").config == zoo.load(tmp_path / "one").config


def losses(path):
    """The training loss of each step of a run."""
    return [json.loads(line)["train_loss"] for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("kind", [[], ["--fsdp"]])
def test_a_run_resumes_on_another_number_of_processes(run, files, tmp_path, kind):
    """Begun by two and finished by one, or the other way round, it follows one process to 1e-5."""
    options = ["--size", files / "small.json", *FEW, "--dtype", "float32", "--dropout", "0", "--keep", "9"]
    arguments = ["train", files / "text.txt", *options, "-q", "--out"]
    assert 0 == run(*arguments, tmp_path / "straight")[0]
    expected = [
        json.loads(line)["train_loss"] for line in (tmp_path / "straight/metrics.jsonl").read_text().splitlines()
    ]
    spread(*arguments, tmp_path / "two", *kind)
    shutil.rmtree(tmp_path / "two/checkpoints/step-00000006")
    assert 0 == run("train", "--resume", tmp_path / "two", "-q", "--no-fsdp")[0]
    for name in ("step-00000006", "step-00000004"):  # what one process wrote, two go on from
        shutil.rmtree(tmp_path / "two/checkpoints" / name)
    assert 0 == run("train", "--resume", tmp_path / "two", "-q")[0]
    shutil.rmtree(tmp_path / "two/checkpoints/step-00000006")
    spread("train", "--resume", tmp_path / "two", "-q", "--fsdp")  # from what one process wrote whole
    assert expected == pytest.approx(losses(tmp_path / "two"), abs=1e-5)


@pytest.mark.long
def test_a_full_disk_ends_processes_that_share_out_a_model(files, tmp_path):
    """Full in every process: the error says so, nothing half written stays, and the run is one to resume."""
    arguments = ["train", files / "text.txt", "--size", files / "small.json", *FEW, "-q", "--fsdp", "--out"]
    with largest_file(300_000):
        done = torchrun(*arguments, tmp_path / "run")
    assert done.returncode != 0
    assert "checkpoints/step-00000002 was not written: " in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    spread("train", "--resume", tmp_path / "run", "-q")
    assert 6 == len(losses(tmp_path / "run"))


@pytest.mark.slow
def test_compiled_blocks_train_as_others(files, tmp_path):
    """With --compile, losses are those without, and its run goes on without."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    options = ["--size", files / "small.json", *FEW, "--dtype", "float32", "--dropout", "0", "-q", "--out"]
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        arguments = ["train", files / "text.txt", *options, tmp_path / name, *more]
        command = [sys.executable, "-m", "zoo", *map(str, arguments)]
        subprocess.run(command, check=True)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "compiled"), abs=1e-4)
    shutil.rmtree(tmp_path / "compiled/checkpoints/step-00000006")
    command = [sys.executable, "-m", "zoo", "train", "--resume", str(tmp_path / "compiled"), "--no-compile", "-q"]
    subprocess.run(command, check=True)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "compiled"), abs=1e-4)


def test_the_tokenizer_file_of_llmc(run, tmp_path):
    """A header of 256 int32, then length and bytes of each token; the bytes of a text's tokens are the text."""
    code, text, _ = run("data", "tokenizer", "--out", tmp_path / "gpt2_tokenizer.bin")
    data = (tmp_path / "gpt2_tokenizer.bin").read_bytes()
    header, data = np.frombuffer(data[:1024], "<i4").tolist(), data[1024:]
    tokens = []
    while data:
        tokens.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]

    assert (code, text) == (0, f"{tmp_path / 'gpt2_tokenizer.bin'}: 50,257 tokens\n")
    assert header == [20240328, 2, 50257, 50256, *[0] * 252]
    assert len(set(tokens)) == 50257 and {bytes([i]) for i in range(256)} < set(tokens)
    written = "Every effort, jede Mühe, каждое усилие, すべての努力, कोशिश 👍<|endoftext|>"
    assert b"".join(tokens[i] for i in zoo.Tokenizer().encode(written)) == written.encode()
