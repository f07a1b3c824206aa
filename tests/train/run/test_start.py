"""Runs that are started, interrupted, killed, damaged, resumed and loaded."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from disk import largest_file

import zoo
from zoo.cli.main import main
from zoo.containers.safetensors import read_safetensors
from zoo.errors import FormatError, OptionError, OutputError, TrainingError, ZooError
from zoo.hub.runs import checkpoint_path, list_checkpoints
from zoo.train.data.corpus import Sources, open_corpus
from zoo.train.run.first_model import Start
from zoo.train.run.start import Run
from zoo.train.run.watcher import Watcher
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World
from zoo.train.step.evaluation import cover, evaluate
from zoo.train.step.lora import LoRA
from zoo.train.step.loss import LanguageModelLoss

MODEL = zoo.GPTConfig(vocab_size=50257, context_length=23, width=30, n_heads=5, n_layers=2, dropout=0.2)
CONFIG = TrainConfig(
    steps=12, batch_size=4, micro_batch_size=3, context=13, lr=1e-2, dtype="float32", seed=7, eval_every=4, save_every=3
)
WEIGHTS = ("model.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of three documents."""
    words = random.Random(3).choices(["every", "effort", "moves", "you", "forward", "a", "little"], k=900)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("<|endoftext|>".join(" ".join(words[i : i + 300]) for i in range(0, 900, 300)))
    return path


def begin(path, text, config=CONFIG, start=None, **watch):
    """A trainer of a new run."""
    sources = Sources(train=(str(text),), val_fraction=0.2)
    run, first = Run.begin(path, config, sources, start or Start(config=MODEL), World())
    return run.trainer(World(), Watcher(**watch), first=first)


def resume(path, **watch):
    """Return a trainer that resumes a run, and the run."""
    run = Run.open(path)
    return run.trainer(World(), Watcher(**watch)), run


def last_bytes(path, names=WEIGHTS):
    """The files of the newest checkpoint."""
    return [(list_checkpoints(path)[0] / name).read_bytes() for name in names]


def rows(path):
    """Metrics without times."""
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "tokens_per_s")} for row in found]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, text):
    """Return a run without interruptions."""
    path = tmp_path_factory.mktemp("run") / "straight"
    assert "done" == begin(path, text).run()
    return path


def test_a_run_learns_and_leaves_what_is_promised(straight):
    """Losses fall; metrics are JSON lines and CSV; the newest and the best checkpoints stay."""
    found = rows(straight)
    assert list(range(1, 13)) == [row["step"] for row in found]
    assert found[-1]["train_loss"] < found[0]["train_loss"] - 3
    assert [4, 8, 12] == [row["step"] for row in found if row["val_loss"] is not None]
    assert 12 * 4 * 13 == found[-1]["tokens"]
    table = (straight / "metrics.csv").read_text().splitlines()
    assert "step,epoch,tokens,train_loss" == ",".join(table[0].split(",")[:4])
    assert len(table) == 13
    assert [12, 9] == [int(path.name[5:]) for path in list_checkpoints(straight)]
    assert not list(straight.rglob(".*"))


def test_the_run_is_a_model_for_everything_else(straight, tmp_path):
    """A run loads, converts and generates as its newest checkpoint."""
    newest = zoo.load(list_checkpoints(straight)[0] / "model.safetensors").state_dict()
    model = zoo.load(straight)
    assert all(torch.equal(value, newest[name]) for name, value in model.state_dict().items())
    assert zoo.convert(straight, tmp_path / "hf", to="huggingface").verified
    assert zoo.complete(model, "every effort", max_new_tokens=3, seed=1)


def test_the_same_settings_give_the_same_bits(straight, text, tmp_path):
    """A second run with the same settings has the same dropout, order and result."""
    begin(tmp_path / "again", text).run()
    assert last_bytes(straight) == last_bytes(tmp_path / "again")


def test_torchs_global_generator_is_left_alone(text, tmp_path):
    """A run draws dropout from torch's global generator and restores its state."""
    before = torch.get_rng_state()
    begin(tmp_path / "run", text, CONFIG.replace(steps=2)).run()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_goes_on_to_the_same_end(straight, text, tmp_path, signum):
    """A signal ends the run after the current step, also between checkpoints."""
    path = tmp_path / "run"
    trainer = begin(path, text, on_row=lambda row: os.kill(os.getpid(), signum) if row["step"] == 5 else None)
    assert "interrupted" == trainer.run()
    assert 5 == trainer.state.step
    again, _ = resume(path)
    assert "done" == again.run()
    assert (last_bytes(straight), rows(straight)) == (last_bytes(path), rows(path))


def test_the_average_of_the_last_weights_is_kept_and_resumed(text, tmp_path):
    """The average is the mean of the weights after the last steps, is loaded by default, and survives a resume bit
    for bit.
    """
    config = CONFIG.replace(average=0.25, save_every=1, keep=20)
    begin(tmp_path / "one", text, config).run()
    checkpoints = list_checkpoints(tmp_path / "one")[:3]
    weights = [zoo.load(path / "model.safetensors").tok_emb.weight for path in checkpoints]
    mean = torch.stack(list(weights)).mean(0)
    assert torch.allclose(mean, zoo.load(tmp_path / "one").tok_emb.weight, rtol=1e-5, atol=1e-7)

    path = tmp_path / "two"
    trainer = begin(path, text, config, on_row=lambda row: os.kill(os.getpid(), 15) if row["step"] == 11 else None)
    trainer.run()
    resume(path)[0].run()
    names = (*WEIGHTS, "average.safetensors")
    assert last_bytes(tmp_path / "one", names) == last_bytes(path, names)


def test_training_goes_on_from_any_checkpoint(straight, text, tmp_path):
    """A run can start from a converted checkpoint: its first loss is about the last one of the run before."""
    zoo.convert(straight, tmp_path / "book.pth", to="book")
    trainer = begin(tmp_path / "run", text, CONFIG.replace(steps=2), Start(model=str(tmp_path / "book.pth")))
    trainer.run()
    assert rows(tmp_path / "run")[0]["train_loss"] < rows(straight)[-1]["train_loss"] + 0.5


def test_lora_trains_adapters_only_and_resumes(straight, text, tmp_path):
    """The base is unchanged, checkpoints have adapters, and the run loads as the base with the adapters merged."""
    start = Start(model=str(straight), lora=LoRA(rank=2))
    begin(tmp_path / "one", text, CONFIG, start).run()
    path = tmp_path / "two"
    begin(path, text, CONFIG, start, on_row=lambda row: os.kill(os.getpid(), 15) if row["step"] == 5 else None).run()
    resume(path)[0].run()
    names = ("adapter/adapter_model.safetensors", "optimizer.safetensors")
    assert last_bytes(tmp_path / "one", names) == last_bytes(path, names)
    assert sum(file.stat().st_size for file in (list_checkpoints(path)[0]).rglob("adapter_model*")) < 100_000
    base, merged = zoo.load(straight), zoo.load(path)
    assert torch.equal(base.tok_emb.weight, merged.tok_emb.weight)
    assert not torch.equal(base.blocks[0].attn.qkv.weight, merged.blocks[0].attn.qkv.weight)


def test_the_average_of_adapters_is_kept_and_resumed(straight, text, tmp_path):
    """With LoRA the average is that of the adapters; it is loaded by default and survives a resume bit for bit."""
    config = CONFIG.replace(average=0.25, save_every=1, keep=20)
    start = Start(model=str(straight), lora=LoRA(rank=2))
    begin(tmp_path / "one", text, config, start).run()
    path = tmp_path / "two"
    stop = {"on_row": lambda row: os.kill(os.getpid(), 15) if row["step"] == 11 else None}
    begin(path, text, config, start, **stop).run()
    resume(path)[0].run()
    names = [f"{kind}/adapter_model.safetensors" for kind in ("adapter", "average-adapter")]
    assert last_bytes(tmp_path / "one", names) == last_bytes(path, names)
    adapters = [read_safetensors(each / names[0])[0] for each in list_checkpoints(path)[:3]]
    for name, mean in read_safetensors(list_checkpoints(path)[0] / names[1])[0].items():
        np.testing.assert_allclose(mean.load(), np.mean([each[name].load() for each in adapters], 0), atol=1e-7)
    last, mean = (zoo.load(list_checkpoints(path)[0] / kind) for kind in ("adapter", "average-adapter"))
    weight = zoo.load(path).blocks[0].attn.qkv.weight
    assert torch.equal(weight, mean.blocks[0].attn.qkv.weight)
    assert not torch.equal(weight, last.blocks[0].attn.qkv.weight)


def test_a_moved_base_is_named_at_resume(straight, text, tmp_path):
    """A LoRA run whose base has moved says so; with the new path of the base it ends as the uninterrupted run."""
    base, path = tmp_path / "base.safetensors", tmp_path / "run"
    zoo.convert(straight, base)
    begin(path, text, CONFIG, Start(model=str(base), lora=LoRA(rank=2))).run()
    names = ("adapter/adapter_model.safetensors", "optimizer.safetensors")
    whole = last_bytes(path, names)
    shutil.rmtree(list_checkpoints(path)[0])
    base.rename(tmp_path / "moved.safetensors")
    with pytest.raises(ZooError, match=r"base\.safetensors: there is no such file"):
        resume(path)
    done = CliRunner().invoke(main, ["train", "--resume", str(path), "-q", "-m", str(tmp_path / "moved.safetensors")])
    assert (0, whole) == (done.exit_code, last_bytes(path, names)), done.output


def test_a_damaged_checkpoint_is_passed_over(straight, tmp_path):
    """If a checkpoint is damaged, the one before is used with a note, and the run ends the same; without any, the
    error says so.
    """
    path = tmp_path / "run"
    shutil.copytree(straight, path)
    file = checkpoint_path(path, 12) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    trainer, run = resume(path)
    assert 9 == trainer.state.step
    assert "step-00000012/model.safetensors: is corrupt" in run.notes[0]
    trainer.run()
    assert last_bytes(straight) == last_bytes(path)

    for checkpoint in list_checkpoints(path):
        (checkpoint / "optimizer.safetensors").unlink()
    with pytest.raises(TrainingError, match="no intact checkpoint in"):
        resume(path)


def test_early_stopping_ends_the_run_and_keeps_the_best(text, tmp_path):
    """After `patience` evaluations without improvement the run ends; the best checkpoint is still there."""
    config = CONFIG.replace(
        steps=60, lr=0.3, schedule="constant", warmup=0, eval_every=2, save_every=0, patience=2, keep=1
    )
    trainer = begin(tmp_path / "run", text, config)
    assert "no improvement" == trainer.run()
    assert 2 == trainer.state.n_worse
    assert trainer.state.step < 60
    links = {name: (tmp_path / "run" / "checkpoints" / name).resolve() for name in ("best", "last")}
    assert links["best"] == checkpoint_path(tmp_path / "run", trainer.state.best_step)
    assert links["last"] == checkpoint_path(tmp_path / "run", trainer.state.step) != links["best"]
    best = zoo.load(tmp_path / "run" / "checkpoints" / "best")
    tokens = open_corpus(Run.open(tmp_path / "run").sources, tmp_path / "run" / "data")[1]
    found = evaluate(LanguageModelLoss(best), cover(tokens, config.context, batch_size=3))
    assert trainer.state.best_loss == pytest.approx(found.loss, rel=1e-6)


def test_a_loss_that_explodes_keeps_the_last_checkpoint(text, tmp_path):
    """The run stops with the step's number; what was saved before loads."""
    config = CONFIG.replace(lr=1e30, clip=0, warmup=6, start_lr=1e-3, save_every=1)
    trainer = begin(tmp_path / "run", text, config)
    with pytest.raises(TrainingError, match=r"at step \d+; lower.*checkpoints/step-\d+ is the last good checkpoint"):
        trainer.run()
    assert list_checkpoints(tmp_path / "run")
    assert zoo.load(list_checkpoints(tmp_path / "run")[-1] / "model.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.03, 0.4, 0.7, 0.9999])
def test_a_full_disk_leaves_the_checkpoints_there_were(straight, text, tmp_path, share):
    """If the disk is full at any share of a file, there is one error and nothing incomplete; with space again the
    run ends bit-identical.
    """
    path, limits = tmp_path / "run", ExitStack()
    largest = max(each.stat().st_size for each in list_checkpoints(straight)[0].iterdir())

    def fill(row):
        if row["step"] == 4:
            limits.enter_context(largest_file(int(share * largest)))

    with limits, pytest.raises(OutputError, match="was not written"):
        begin(path, text, on_row=fill).run()
    assert [3] == [int(each.name[5:]) for each in list_checkpoints(path)]
    assert not list((path / "checkpoints").glob(".*"))

    assert "done" == resume(path)[0].run()
    assert (last_bytes(straight), rows(straight)) == (last_bytes(path), rows(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 24}, "the context 24 is longer than the model's context length; use at most 23"),
        ({"context": 23, "stride": 5, "_text": "you " * 20}, "not enough for one window of 23"),
        ({"_text": ""}, "there is no text for train.bin"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, change, message):
    """An error before the first step leaves no run directory, or one that resumes to the same error."""
    text = tmp_path / "text.txt"
    text.write_text(change.pop("_text", "every effort moves you forward " * 40))
    with pytest.raises(OptionError, match=message):
        begin(tmp_path / "run", text, CONFIG.replace(**change))


def test_ids_that_the_model_does_not_have_are_refused(tmp_path):
    """A .bin file of another vocabulary, whose ids would be outside the embedding, is refused."""
    np.arange(0, 900, dtype=np.uint16).tofile(tmp_path / "x.bin")
    with pytest.raises(OptionError, match="has token id 719, but the model's ids are 0 to 96"):
        begin(tmp_path / "run", tmp_path / "x.bin", CONFIG, Start(config=MODEL.replace(vocab_size=97)))


def test_a_step_needs_a_window_for_every_process(text, tmp_path):
    """Fewer windows than processes are refused before anything is computed."""
    with pytest.raises(OptionError, match="a step has 4 windows, fewer than the number of processes, 5"):
        sources = Sources(train=(str(text),))
        Run.begin(tmp_path / "run", CONFIG, sources, Start(config=MODEL), World())[0].trainer(World(0, 5), Watcher())


def test_tokens_are_found_again_from_anywhere(straight, text, tmp_path, monkeypatch):
    """A .bin source may be a relative pattern; the run resumes from another directory. Several .bin files are
    refused.
    """
    monkeypatch.chdir(tmp_path)
    shutil.copy(straight / "data" / "train.bin", "a.bin")
    begin(tmp_path / "run", "*.bin", CONFIG.replace(steps=2)).run()
    monkeypatch.chdir(tmp_path / "run")
    assert "done" == resume(tmp_path / "run")[0].run()
    monkeypatch.chdir(tmp_path)
    shutil.copy("a.bin", "b.bin")
    with pytest.raises(OptionError, match="give either one .bin file of tokens"):
        begin(tmp_path / "other", "*.bin")
    with pytest.raises(FormatError, match="none.bin: there is no such file"):
        begin(tmp_path / "other", "none.bin")


def test_no_directory_but_a_run_resumes(tmp_path):
    """Other directories are said to be none."""
    with pytest.raises(ZooError, match="is not a run of zoo train"):
        Run.open(tmp_path)


def killed(path, seconds):
    """Resume a run in a process, kill it after some seconds, and return whether it had ended before."""
    program = f"from zoo.cli.main import main; main(['train', '--resume', {str(path)!r}, '-q'])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as process:
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    assert process.returncode == 0, err
    return True


def storm(tmp_path, text, n_kills):
    """Kill a run at random moments and compare its result with that of an uninterrupted run."""
    config = CONFIG.replace(steps=n_kills * 12, save_every=2)
    begin(tmp_path / "straight", text, config).run()
    path = tmp_path / "killed"
    begin(path, text, config)
    moments = random.Random(8)
    started = time.monotonic()
    assert killed(Path(shutil.copytree(path, tmp_path / "timed")), 600)
    whole = time.monotonic() - started
    n = 0
    while n < n_kills:
        # From the first import to the end; where the run gets to its end, it begins anew.
        if killed(path, moments.uniform(0.3, 1.0) * whole):
            shutil.rmtree(path)
            begin(path, text, config)
        else:
            n += 1
    assert killed(path, 600)
    assert (last_bytes(tmp_path / "straight"), rows(tmp_path / "straight")) == (last_bytes(path), rows(path))
    assert not [each for each in path.rglob(".*") if each.name.startswith(".tmp")]


@pytest.mark.long
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, text):
    """SIGKILL at three random moments, then bit-identical weights, optimizer and metrics."""
    storm(tmp_path, text, 3)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_if_it_had_not_been(tmp_path, text):
    """SIGKILL at twenty random moments."""
    storm(tmp_path, text, 20)


def test_settings_survive_their_files():
    """Configs and starts survive a round trip through JSON."""
    assert TrainConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    start = Start(config=MODEL, lora=LoRA(rank=3, targets=("attn.qkv",)))
    assert start == Start.from_dict(start.to_dict())
    assert replace(start, lora=None) == Start.from_dict(replace(start, lora=None).to_dict())
