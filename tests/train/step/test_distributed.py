"""Two processes that are connected by gloo compute what one process computes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import CorruptFile, FormatError, ZooError
from zoo.train.step.distributed import World, world

SPREAD = Path(__file__).with_name("spread.py")


def spread(directory, n_processes, kind, n_steps, *more):
    """Run spread.py, and return its losses and sums of weights."""
    out = directory / f"{n_processes}-{kind}-{len(more)}.json"
    program = [str(SPREAD), str(out), kind, str(n_steps), *map(str, more)]
    if n_processes > 1:
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", *program]
    done = subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Eight steps in one process."""
    return spread(tmp_path_factory.mktemp("one"), 1, "ddp", 8)


def close(one, two):
    """Whether losses and gradient norms agree to 1e-5, and the sums of weights to 1e-4."""
    (losses_1, values_1), (losses_2, values_2) = one, two
    worst = (torch.tensor(losses_1) - torch.tensor(losses_2)).abs().max().item()
    assert worst < 1e-5, worst
    assert values_1.keys() == values_2.keys() == zoo.GPTConfig.from_dict(CONFIG).parameter_shapes().keys()
    assert all(abs(values_1[name] - values_2[name]) < 1e-4 for name in values_1)


CONFIG = {"vocab_size": 97, "context_length": 23, "width": 30, "n_heads": 5, "n_layers": 2, "dropout": 0.0}


def test_ddp_follows_one_process(tmp_path, straight):
    """With unequal shares and accumulation, losses, gradient norms and weights are those of one process."""
    close(straight, spread(tmp_path, 2, "ddp", 8))


@pytest.mark.long
def test_fsdp_follows_one_process_and_its_checkpoint_goes_on_anywhere(tmp_path, straight):
    """FSDP2 follows one process; a checkpoint that two processes wrote is resumed by one or two, and zoo reads the
    weights.
    """
    sharded = tmp_path / "sharded"
    losses, values = spread(tmp_path, 2, "fsdp", 4, sharded)
    state = zoo.load(sharded).state_dict()
    assert zoo.convert(sharded, tmp_path / "x.safetensors").verified
    assert all(abs(state[name].double().sum().item() - value) < 1e-9 for name, value in values.items())

    for n_processes in (1, 2):
        more, values = spread(tmp_path, n_processes, "fsdp" if n_processes == 2 else "ddp", 4, "", sharded)
        close(straight, [losses + more, values])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A checkpoint that two processes wrote."""
    path = tmp_path_factory.mktemp("two") / "sharded"
    spread(path.parent, 2, "fsdp", 1, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.pop("config"), "config is missing"),
        (lambda index: index["config"].update(width=7), "config is missing or impossible"),
        (lambda index: index.pop("tensors"), "list of tensors is damaged"),
        (lambda index: pieces(index).pop(), "are not the whole"),
        (lambda index: pieces(index)[0].__setitem__(0, "../x"), "not inside its directory"),
        (lambda index: pieces(index)[0].__setitem__(1, 1 << 40), "ends after its file"),
        (lambda index: pieces(index)[0].__setitem__(1, -1), "list of tensors is damaged"),
        (lambda index: pieces(index)[0].__setitem__(1, 0), "checksum of tensor tok_emb.weight"),
        (lambda index: pieces(index)[0].__setitem__(3, [60, 0]), "lies outside"),
        (lambda index: pieces(index)[1].__setitem__(3, [1, 0]), "overlap"),
        (lambda index: index["tensors"]["tok_emb.weight"].update(shape=[97, "x"]), "list of tensors is damaged"),
    ],
)
def test_damaged_indexes_are_refused(tmp_path, sharded, change, message):
    """Each kind of damage is reported, and no file outside the directory is opened."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in sharded.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    index = json.loads((copy / "zoo.json").read_text())
    change(index)
    (copy / "zoo.json").write_text(json.dumps(index))

    with pytest.raises(FormatError, match=message):
        zoo.load(copy)


def pieces(index):
    """The pieces of the first tensor."""
    return index["tensors"]["tok_emb.weight"]["pieces"]


def test_changed_bytes_are_found(tmp_path, sharded):
    """A flipped bit fails its checksum; a truncated or missing file is reported as such."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in sharded.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    piece = pieces(json.loads((copy / "zoo.json").read_text()))[0]
    data = bytearray((copy / piece[0]).read_bytes())
    data[piece[1] + 5] ^= 4
    (copy / piece[0]).write_bytes(data)
    with pytest.raises(CorruptFile, match="checksum of tensor tok_emb"):
        zoo.load(copy)
    (copy / piece[0]).write_bytes(data[:1000])
    with pytest.raises(CorruptFile, match="may be truncated"):
        zoo.load(copy)
    (copy / piece[0]).unlink()
    with pytest.raises(ZooError, match="cannot be read"):
        zoo.load(copy)


def test_alone_nothing_is_exchanged(monkeypatch):
    """Without torchrun there is one process: sums are the numbers, and modules are unchanged."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world() as here:
        module = torch.nn.Linear(2, 3)
        assert (World(), (2.5, 1.0), True, module) == (here, here.sum(2.5, 1.0), here.is_main, here.wrap(module))
        assert here.any(True)
        assert not here.any(False)
        here.barrier()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_give_the_same_gradients():
    """torch.compile changes rounding only, and no parameter's name."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    ids = torch.arange(20)[None]
    plain, compiled = (zoo.create(zoo.GPTConfig.from_dict(CONFIG), seed=1).train() for _ in range(2))
    World().wrap(compiled, compile=True)
    for model in (plain, compiled):
        model(ids).square().mean().backward()

    for (name, one), (same, two) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert name == same
        assert torch.allclose(one.grad, two.grad, atol=1e-6), name


def test_python_m_zoo_is_the_command():
    """torchrun starts modules, so `python -m zoo` exists; its help shows the command's name."""
    done = subprocess.run([sys.executable, "-m", "zoo", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: zoo [OPTIONS]")
