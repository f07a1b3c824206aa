"""`zoo bench`: all contenders compute the same, and the report follows from the measurements."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

import zoo
from zoo.bench import Settings, bench, write_random
from zoo.bench.contenders import CONTENDERS, PEERS
from zoo.bench.probe import Machine
from zoo.bench.process import Process, busy_cores
from zoo.bench.turns import prefill_operations
from zoo.cli.main import main
from zoo.engine import is_built
from zoo.errors import OptionError, ZooError
from zoo.models.gpt2.config import GPTConfig

pytestmark = pytest.mark.skipif(not is_built(), reason="the engine is not built")

CONFIG = GPTConfig(vocab_size=50257, context_length=40, width=24, n_heads=3, n_layers=2)
PROMPTS = [[464, 3797, 3332, 319, 262], [7454, 2402, 257, 640, 11]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A file with random weights and GPT-2's vocabulary."""
    path = tmp_path_factory.mktemp("bench") / "tiny.safetensors"
    write_random(CONFIG, path)
    return path


@pytest.mark.peers
@pytest.mark.parametrize("name", PEERS)
def test_contenders_give_the_same_greedy_tokens(name, tmp_path):
    """Every contender continues the small trained model as zoo's engine does, alone and in a batch."""
    kind = CONTENDERS[name]
    if not any(map(find_spec, kind.packages)):
        pytest.skip(f"{kind.packages[0]} is not installed")
    precision = "float32" if "float32" in kind.dtypes else "int8"
    files = {}
    for each in ("zoo", name):
        files[each] = tmp_path / f"{each}{'.gguf' if each == 'llama.cpp' else ''}"
        zoo.convert("stories", files[each], to=CONTENDERS[each].format, dtype=CONTENDERS[each].dtypes[precision])
    with Process("zoo", files["zoo"], precision, 1) as ours, Process(name, files[name], precision, 1) as theirs:
        for prompts in (PROMPTS, PROMPTS[1:]) if kind.batches else (PROMPTS[:1], PROMPTS[1:], PROMPTS[:1]):
            expected = ours.generate(prompts, 12)
            found = theirs.generate(prompts, 12)
            assert expected["ids"] == found["ids"]
            assert len(found["seconds"]) == 12 and found["seconds"] == sorted(found["seconds"])


def test_the_numbers_come_from_the_turns(tiny):
    """Every precision and contender has its row; percentages are bytes read over bytes possible, and ratios are
    quotients.
    """
    settings = Settings(("float32", "int8"), ("book",), threads=1, contexts=(7, 19), tokens=5, rounds=3)
    said = []
    found = bench(tiny, settings, said.append)

    rows = {(row["contender"], row["precision"]): row for row in found["rows"]}
    assert [("zoo", "float32"), ("book", "float32"), ("zoo", "int8")] == list(rows)
    assert ["float32: files are converted", "float32: zoo loads", "float32: book loads"] == said[:3]
    for row in rows.values():
        assert row["prefill_tokens_per_s"] > 0 and set(row["decode_tokens_per_s"]) == {7, 19}
        assert row["first_token_s"] > 0.05 and row["peak_memory"] > row["anonymous_memory"] > 1e6
    ours, theirs = rows["zoo", "float32"], rows["book", "float32"]
    assert theirs["zoo_is_faster"]["first_token"] == pytest.approx(
        theirs["first_token_s"] / ours["first_token_s"], rel=0.5
    )
    assert theirs["zoo_is_faster"]["decode"][19] == pytest.approx(
        ours["decode_tokens_per_s"][19] / theirs["decode_tokens_per_s"][19], rel=0.9
    )
    cached = 2 * 4 * CONFIG.n_layers * CONFIG.width * (19 + 2.5)
    rate = ours["decode_tokens_per_s"][19] * (ours["weight_bytes"] + cached)
    assert ours["share_of_bandwidth"][19] == pytest.approx(rate / found["machine"]["read_bandwidth"], rel=0.5)


def test_operations_of_a_prompt_are_those_counted_by_hand():
    """The operations of a block with C = 6, I = 10 and T = 4 are multiply-adds of the matrices, half a square of
    attention, and the head.
    """
    config = GPTConfig(vocab_size=11, context_length=8, width=6, n_heads=2, n_layers=1, inner_width=10)

    matrices = 4 * (6 * 18 + 6 * 6 + 6 * 10 + 10 * 6)
    attention = (1 + 2 + 3 + 4) * (6 + 6)  # of each token, with itself and those before: q k and p v
    assert 2 * (matrices + attention + 11 * 6) == prefill_operations(config, 4)


def test_the_machine_reads_and_multiplies_at_a_credible_rate():
    """The probes give a hundredth to a hundred times of an ordinary core; more threads read at least half as much."""
    one, two = Machine(1), Machine(2)

    assert 3e8 < one.bandwidth() < 1e12
    assert 1e9 < one.peak("float32") <= 1e13
    assert two.bandwidth() > one.bandwidths[0] / 2
    assert one.peak("float16") == one.peaks["float32"][-1]
    assert one.peak("int8") == one.peaks["int16"][-1] > one.peaks["float32"][0] / 2
    assert one.peaks.keys() == {"float32", "int16"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(("float31",)), "unknown precision 'float31'"),
        (Settings(against=("keras",)), "unknown peer 'keras'; known: transformers"),
        (Settings(tokens=1), "tokens must be at least 2"),
        (Settings(contexts=(30,), tokens=12), "41 tokens do not fit the model's context of 40"),
        (Settings(prefill=41), "41 tokens do not fit"),
        (Settings(contexts=()), "at least one precision and one context"),
        (Settings(precisions=()), "at least one precision and one context"),
        (Settings(busy=-1), "all other numbers at least 1"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(tiny, settings, message):
    """Invalid settings are refused before anything is loaded."""
    with pytest.raises(OptionError, match=message):
        bench(tiny, settings)


def test_whoever_is_installed_takes_part(tiny, monkeypatch):
    """A contender that is not installed or lacks a feature is skipped with a reason; the others are measured."""
    monkeypatch.setattr(CONTENDERS["transformers"], "packages", ("no_such_package",))
    monkeypatch.setattr(CONTENDERS["llama.cpp"], "packages", ("json",))
    settings = Settings(against=("transformers", "book", "llama.cpp"), batch=2, rounds=1, first_token=False, threads=1)
    found = bench(tiny, settings)

    assert ["zoo", "book"] == [row["contender"] for row in found["rows"]]
    assert ["book"] == found["settings"]["against"]
    assert found["left_out"] == {
        "transformers": "the package no_such_package is not installed (pip install transformers)",
        "llama.cpp": "it continues one prompt at a time",
    }


@pytest.mark.parametrize(
    ("length", "contexts"), [(1024, [16, 256, 1000]), (1022, [16, 256]), (40, [16]), (30, [7]), (24, [1])]
)
def test_contexts_are_those_that_fit(length, contexts):
    """By default, contexts are those that fit with 24 decoded tokens, of which the last is not read."""
    assert contexts == Settings().resolve(CONFIG.replace(context_length=length)).contexts


@pytest.mark.parametrize("length", [5, 34])
def test_a_batch_is_read_in_one_pass(tiny, tmp_path, monkeypatch, length):
    """Prompts of all rows share the weights, and each row gets the tokens that it gets alone."""
    contender = CONTENDERS["zoo"](tiny, "float32", 1)
    prompts = [np.random.default_rng(row).integers(50000, size=length).tolist() for row in range(6)]
    alone = [[token for _, token in contender.generate([prompt], 4)] for prompt in prompts]
    passes, plain = [], contender._engine._forward
    monkeypatch.setattr(
        contender._engine, "_forward", lambda ids, rows, *rest: passes.append(len(ids)) or plain(ids, rows, *rest)
    )

    for row in range(6):
        order = prompts[row:] + prompts[:row]
        assert alone[row] == [token for _, token in contender.generate(order, 4)]
    assert 3 * [6] == passes[-3:]
    assert 6 * length == sum(passes[: len(passes) // 6 - 3])


def test_other_work_can_be_made(tiny):
    """Busy cores use processor time during the measurement and end with it, also after an error."""
    before = os.times()
    with pytest.raises(KeyError), busy_cores(2):
        time.sleep(0.5)
        raise KeyError
    after = os.times()

    assert after.children_user - before.children_user > 0.1
    assert bench(tiny, Settings(busy=1, rounds=1, first_token=False))["settings"]["busy"] == 1


def test_busy_cores_end_with_who_asked_for_them():
    """A killed benchmark leaves no process behind."""
    program = "from zoo.bench.process import busy_cores\nimport os\nwith busy_cores(1): os.kill(os.getpid(), 9)"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE)  # until nobody has the pipe open

    assert time.monotonic() - started < 30


def test_a_contender_that_fails_is_a_sentence(tmp_path):
    """The error of a contender that fails has its last message."""
    with pytest.raises(ZooError, match=r"zoo failed: .*there is no such file"):
        Process("zoo", tmp_path / "none.safetensors", "float32", 1)


def test_the_command_prints_a_table_json_and_a_picture(tiny, tmp_path):
    """The command prints a table or JSON and writes a plot; an existing output is not replaced."""
    command = [sys.executable, "-P", "-m", "zoo", "bench", "--precision", "float32", "--rounds", "1", "-n", "3"]
    plain = subprocess.run([*command, "--model", tiny, "--threads", "1"], capture_output=True, text=True)
    assert (0, "note: float32 zoo: prefill") == (plain.returncode, plain.stderr[:26])
    assert [str(tiny), "1 threads read"] == [plain.stdout[: len(str(tiny))], plain.stdout.splitlines()[1][:14]]
    assert ["float32", "zoo"] == plain.stdout.splitlines()[4].split()[:2]

    picture = tmp_path / "speeds.svg"
    command += ["--model", tiny, "--no-first-token", "--json", "--plot", picture, "--context", "4,9"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert ["4", "9"] == list(json.loads(found.stdout)["rows"][0]["decode_tokens_per_s"])
    assert "decode at context 9" in picture.read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert 1 == again.returncode and "exists already" in again.stderr


def test_a_picture_that_cannot_be_drawn_is_told_before_minutes_of_measuring(tiny, tmp_path, monkeypatch):
    """An unsupported suffix or a missing matplotlib is reported before the measurement."""
    monkeypatch.setattr("zoo.bench.bench", lambda *_: pytest.fail("it measures"))
    command = ["bench", "--model", str(tiny), "--plot"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "speeds.bmp")])
    assert "must end in .png, .pdf, .svg" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = CliRunner().invoke(main, [*command, str(tmp_path / "speeds.png")])
    assert "pip install 'gpt2-zoo[plot]'" in result.stderr


def test_the_command_says_who_is_left_out(tiny, monkeypatch):
    """A note on stderr names the skipped contenders before the measurement; stdout has the results of the others."""
    monkeypatch.setattr(CONTENDERS["llama.cpp"], "packages", ("no_such_package",))
    options = ["--precision", "float32", "--rounds", "1", "--no-first-token", "--json", "--against", "llama.cpp"]
    result = CliRunner().invoke(main, ["bench", "--model", str(tiny), *options])

    assert "note: llama.cpp is left out: the package no_such_package is not installed (pip install" in result.stderr
    assert ["zoo"] == [row["contender"] for row in json.loads(result.stdout)["rows"]]


def test_a_peer_that_fails_costs_its_row_only(tiny, monkeypatch):
    """The other contenders have their rows, and left_out says what the peer's last message was."""
    monkeypatch.setattr("zoo.bench.turns.Process", _refuse("book"))
    settings = Settings(("float32",), ("book",), threads=1, contexts=(7,), tokens=3, rounds=1, first_token=False)
    found = bench(tiny, settings)

    assert ["zoo"] == [row["contender"] for row in found["rows"]]
    assert {"book": "float32: book failed: no such tensor"} == found["left_out"]


def _refuse(peer):
    def start(name, *arguments):
        if name == peer:
            raise ZooError(f"{peer} failed: no such tensor")
        return Process(name, *arguments)

    return start


def test_an_interrupted_run_keeps_the_finished_rounds(tiny):
    """Ctrl-C in the second round leaves the row of the first; on_row gets it."""

    def stop(what):
        if "round 2" in what:
            raise KeyboardInterrupt

    settings = Settings(("float32", "int8"), threads=1, contexts=(7,), tokens=3, rounds=3, first_token=False)
    rows = []
    found = bench(tiny, settings, stop, rows.append)

    assert found["interrupted"]
    assert [("zoo", "float32")] == [(row["contender"], row["precision"]) for row in found["rows"]]
    assert rows == found["rows"]
