"""zoo generate --prompts: every text is what its prompt gives alone, and a run that was killed goes on."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import zoo
from zoo.cli.main import main
from zoo.engine import is_built
from zoo.errors import FormatError, ZooError

CONFIG = zoo.GPTConfig(vocab_size=50257, context_length=23, width=30, n_heads=5, n_layers=2, dropout=0.25)
ENGINES = ["torch", pytest.param("native", marks=pytest.mark.skipif(not is_built(), reason="the library is not built"))]
LINES = [
    {"prompt": "Every effort moves you", "id": "greedy", "temperature": 0, "max_new_tokens": 9},
    {"prompt": [11, 12, 13], "seed": 5, "top_k": 40, "top_p": None, "min_p": 0.01, "repetition_penalty": 1.2},
    {"prompt": "", "seed": 6, "stop": ["e", "a"], "stop_ids": [13]},
    {"prompt": "far past the context " * 9, "seed": 7, "max_new_tokens": 3, "ignore_eos": True},
    {"prompt": "\ud800 é\n", "temperature": 0.5, "seed": 8, "max_new_tokens": 31, "past_context": "stop"},
    *({"prompt": f"Number {i} of a few", "seed": i, "max_new_tokens": 1 + i * 5 % 19} for i in range(9)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A zoo file of a small model that knows GPT-2's tokens."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    zoo.save(zoo.create(CONFIG, seed=4, init="book"), path)
    return path


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Run zoo generate in tmp_path; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, stdin=None):
        arguments = ["generate", "-m", str(model), *map(str, arguments)]
        done = CliRunner().invoke(main, arguments, input=stdin)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


def write_lines(path, lines):
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def made_alone(model, line, engine):
    """What Python's functions make of one line; the seed and all else are its own."""
    options = {"temperature": 0.8, "max_new_tokens": 7, **line}
    prompt, _ = options.pop("prompt"), options.pop("id", None)
    backend = {"torch": "torch", "native": "engine"}[engine]
    tokens = list(zoo.generate(zoo.load(model), prompt, backend=backend, **options))
    return {
        "text": "".join(t.text for t in tokens),
        "ids": [t.id for t in tokens],
        "finish_reason": tokens[-1].finish_reason,
    }


@pytest.mark.parametrize("batch", [1, 4, 99])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_text_is_the_one_made_alone(run, model, engine, batch):
    """In the order of the lines: id, prompt and own options as given, and what the prompt gives alone with them."""
    write_lines("in.jsonl", LINES)
    code, out, err = run("--prompts", "in.jsonl", "--out", "out.jsonl", "--engine", engine, "--batch", batch, "-n", 7)
    expected = [{"id": i, **line, **made_alone(model, line, engine)} for i, line in enumerate(LINES, start=1)]

    assert (code, err) == (0, "")
    assert expected == read_lines("out.jsonl")
    assert {"length", "context", "stop"} == {line["finish_reason"] for line in expected}
    assert out.startswith(f"out.jsonl: 14 texts; {sum(len(line['ids']) for line in expected)} tokens in ")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_was_cut_anywhere_is_completed(run, engine):
    """After every cut the rest is made again, whole lines are kept, and the file is the same to the byte."""
    write_lines("in.jsonl", LINES)
    command = ["--prompts", "in.jsonl", "--out", "out.jsonl", "--engine", engine, "--json"]
    run(*command)
    whole = Path("out.jsonl").read_bytes()
    for cut in (0, 1, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) // 2, len(whole) - 1, len(whole)):
        Path("out.jsonl").write_bytes(whole[:cut])
        code, out, err = run(*command)

        assert (code, err) == (0, "")
        assert whole == Path("out.jsonl").read_bytes()
        assert whole[:cut].count(b"\n") == json.loads(out)["kept"] == 14 - json.loads(out)["made"]


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(run, model):
    """SIGKILL at some moment of each process, until one ends by itself: the file is that of one quiet run."""
    write_lines("in.jsonl", [{"prompt": f"Number {i}", "seed": i, "max_new_tokens": 3 + i % 40} for i in range(300)])
    run("--prompts", "in.jsonl", "--out", "quiet.jsonl")
    arguments = ["generate", "-m", model, "--prompts", "in.jsonl", "--out", "out.jsonl"]
    out, n_kills, sizes = Path("out.jsonl"), 0, [0]
    while True:
        with subprocess.Popen([sys.executable, "-m", "zoo", *arguments], stdout=subprocess.PIPE) as process:
            while process.poll() is None:  # wait until some lines more are there
                if n_kills < 4 and out.exists() and out.stat().st_size > sizes[-1] + 9000:
                    process.kill()
                    process.wait()
                time.sleep(0.002)
            if process.returncode != -9:
                break
        n_kills += 1
        sizes.append(out.stat().st_size)

    assert (process.returncode, n_kills) == (0, 4)
    assert sizes == sorted(sizes)
    assert Path("quiet.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["-t", "0"], "started with other settings: temperature was 0.8, not 0.0; give those, or another --out"),
        (["--seed", "3", "--stop", "x"], "seed was null, not 3, stop was [], not"),
        (["--engine", "torch", "--dtype", "bfloat16"], "dtype was null, not "),
        (["-m", "other.safetensors"], 'model was "'),
    ],
    ids=str,
)
def test_other_settings_are_refused(run, changes, words):
    """The message says which settings differ; the file stays as it is."""
    zoo.save(zoo.create(CONFIG, seed=5), "other.safetensors")
    write_lines("in.jsonl", [{"prompt": "Hi", "seed": 1}])
    run("--prompts", "in.jsonl", "--out", "out.jsonl")
    before = Path("out.jsonl").read_bytes()
    code, out, err = run("--prompts", "in.jsonl", "--out", "out.jsonl", *changes)

    assert (code, out) == (1, "")
    assert words in err
    assert before == Path("out.jsonl").read_bytes()


def test_speed_is_no_setting(run):
    """Threads and the size of the batch may be others when a run goes on: they decide no text."""
    write_lines("in.jsonl", LINES[:3])
    run("--prompts", "in.jsonl", "--out", "out.jsonl")
    write_lines("in.jsonl", LINES[:6])

    assert run("--prompts", "in.jsonl", "--out", "out.jsonl", "--batch", 3)[0] == 0
    assert len(read_lines("out.jsonl")) == 6


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (
            lambda: write_lines("in.jsonl", [{"prompt": "a"}, {"prompt": "other"}]),
            'line 2 was made with the prompt "b"',
        ),
        (
            lambda: write_lines("in.jsonl", [{"prompt": "a", "seed": 2}, {"prompt": "b"}]),
            "line 1 was made with the seed",
        ),
        (lambda: write_lines("in.jsonl", [{"prompt": "a", "id": "x"}, {"prompt": "b"}]), "the id 1, but line 1 of the"),
        (lambda: write_lines("in.jsonl", [{"prompt": "a"}]), "has at least 2 results for 1 prompts"),
        (lambda: Path("out.jsonl.settings.json").unlink(), "its settings (out.jsonl.settings.json) are missing"),
        (lambda: Path("out.jsonl.settings.json").write_text("x"), "its settings (out.jsonl.settings.json) are missing"),
        (lambda: Path("out.jsonl").write_text("my notes\n"), "line 1 is not a result"),
        (lambda: Path("out.jsonl").write_text('{"prompt": "a"}\n'), "line 1 is not a result"),
    ],
)
def test_a_file_of_something_else_is_refused(run, then, words):
    """Results of other prompts, or no results at all, are neither kept nor overwritten."""
    write_lines("in.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    run("--prompts", "in.jsonl", "--out", "out.jsonl", "-n", 3)
    then()
    before = Path("out.jsonl").read_bytes()
    code, out, err = run("--prompts", "in.jsonl", "--out", "out.jsonl", "-n", 3)

    assert (code, out) == (1, "")
    assert words in err
    assert before == Path("out.jsonl").read_bytes()


def test_two_processes_do_not_write_one_file(run, tmp_path):
    """While a run has the file, another is refused."""
    from zoo.generation.results_file import ResultFile

    write_lines("in.jsonl", LINES[:1])
    with ResultFile(tmp_path / "out.jsonl", {}):
        code, _, err = run("--prompts", "in.jsonl", "--out", "out.jsonl")

    assert (code, "is being written by another process" in err) == (1, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "temprature": 1}', "unknown key 'temprature': did you mean temperature?"),
        ('{"text": "a"}', 'a line is an object with a "prompt"'),
        ('"a"', 'a line is an object with a "prompt"'),
        ("Every effort", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        ('{"prompt": 5}', "the prompt must be a text or a list of token ids, not 5"),
        ('{"prompt": [1, true]}', "the prompt must be a text or a list"),
        ('{"prompt": [50257]}', "the prompt has token id 50257"),
        ('{"prompt": "a", "id": 1.5}', "the id must be a string or an integer, not 1.5"),
        ('{"prompt": "a", "temperature": "0"}', "temperature must be 0, or from 1e-06 to 1e+06, not '0'"),
        ('{"prompt": "a", "max_new_tokens": 0}', "max_new_tokens must be at least 1"),
        ('{"prompt": "a", "max_new_tokens": null}', "max_new_tokens must be an integer"),
        ('{"prompt": "a", "stop": 5}', "stop must be a string or several, not 5"),
        ('{"prompt": "a", "stop_ids": 5}', "stop_ids must be several token ids, not 5"),
        ('{"prompt": "a", "ignore_eos": 1}', "ignore_eos must be true or false, not 1"),
        (
            '{"prompt": "' + "a b" * 30 + '", "past_context": "stop"}',
            "the prompt has 31 tokens, but the context only 23",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_a_bad_line_is_named_before_anything_is_made(run, line, words):
    """The error has the file, the line's number and what is wrong with it; there is no output yet."""
    Path("in.jsonl").write_text(f'{{"prompt": "good"}}\n\n{line}\n')
    code, out, err = run("--prompts", "in.jsonl", "--out", "out.jsonl")

    assert (code, out) == (1, "")
    assert f"in.jsonl: line 3: {words}" in err
    assert ["in.jsonl"] == os.listdir()


def test_a_text_has_a_prompt_a_line(run):
    """Blank lines are none; the id is the line's number; options are the command's, for all."""
    Path("in.txt").write_text("Every effort\r\n\n  two blanks  \n{é", encoding="utf-8")
    run("--prompts", "in.txt", "--out", "out.jsonl", "-t", 0, "-n", 5)
    found = read_lines("out.jsonl")

    assert [(1, "Every effort"), (3, "  two blanks  "), (4, "{é")] == [(line["id"], line["prompt"]) for line in found]
    assert [*found[0]] == ["id", "prompt", "text", "ids", "finish_reason"]
    assert found[0]["prompt"] + found[0]["text"] + "\n" == run("-t", 0, "-n", 5, "Every effort")[1]


@pytest.mark.parametrize("stdin", ['{"prompt": "one"}\n{"prompt": "two"}\n', "one\ntwo\n"])
def test_stdin_is_json_lines_or_text(run, stdin):
    """It is JSON lines if it begins with a brace. A run from stdin goes on like another, given the same lines."""
    assert run("--prompts", "-", "--out", "out.jsonl", "--seed", 1, stdin=stdin.splitlines(True)[0])[0] == 0
    code, out, _ = run("--prompts", "-", "--out", "out.jsonl", "--seed", 1, stdin=stdin)

    assert code == 0
    assert "out.jsonl: 2 texts, 1 of them from before; " in out
    assert ["one", "two"] == [line["prompt"] for line in read_lines("out.jsonl")]


def test_a_bad_line_of_stdin_ends_the_run_and_keeps_what_was_made(run):
    """A pipe cannot be checked before; the results before the line can be resumed from."""
    good = '{"prompt": "one", "max_new_tokens": 2}\n'
    code, _, err = run("--prompts", "-", "--out", "out.jsonl", "--batch", 1, stdin=good + "{}\n")

    assert (code, "stdin: line 2: a line is an object" in err) == (1, True)
    assert 1 == len(read_lines("out.jsonl"))


@pytest.mark.parametrize("name", ["none.txt", "latin.txt", "."])
def test_prompts_that_cannot_be_read(run, name):
    """No such file, another encoding, a directory: one line of error each."""
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    code, out, err = run("--prompts", name, "--out", "out.jsonl")

    assert (code, out) == (1, "")
    assert f"{name}: {'is not text in UTF-8' if name == 'latin.txt' else 'cannot be read: '}" in err


@pytest.mark.parametrize(
    "arguments",
    [["--prompts", "x"], ["--batch", "2"], ["--top-logprobs", "2", "x"], ["--ids", "1", "x"],
     ["--prompts", "x", "--out", "y", "PROMPT"],
     ["--prompts", "x", "--out", "y", "--samples", "2"], ["--prompts", "x", "--out", "y", "--batch", "0"]],
)  # fmt: skip
def test_options_that_do_not_go_together(run, arguments):
    """Misuse is a usage error: status 2, and a line that says what belongs together."""
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert "Error: " in err


def test_a_full_disk_is_an_error_and_the_run_goes_on_later(run, model):
    """With room for 2 kB the command says so in one line; given room, the same command completes the file."""
    write_lines("in.jsonl", [{"prompt": f"Number {i}", "seed": i, "max_new_tokens": 20} for i in range(30)])
    command = [sys.executable, "-m", "zoo", "generate", "-m", model, "--prompts", "in.jsonl", "--out", "out.jsonl"]
    limit = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.argv = sys.argv[1:];"
    )
    full = [sys.executable, "-c", limit + "runpy.run_module('zoo', run_name='__main__')", *command[2:]]
    done = subprocess.run(full, capture_output=True, text=True)
    size = Path("out.jsonl").stat().st_size

    assert (1, 2000) == (done.returncode, size)
    assert "Error: out.jsonl was not written: File too large\n" == done.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert list(range(1, 31)) == [line["id"] for line in read_lines("out.jsonl")]


def test_a_terminal_sees_a_bar(run, model):
    """On a terminal, stderr shows texts done, tokens a second and the time left."""
    write_lines("in.jsonl", [{"prompt": f"Number {i}", "max_new_tokens": 20} for i in range(200)])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zoo", "generate", "-m", model, "--prompts", "in.jsonl", "--out", "out.jsonl"]
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        seen = b""
        while process.poll() is None or not seen:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        process.stdout.read()
    os.close(ours)

    assert b"/200" in seen
    assert b"tokens/s" in seen


def test_from_python():
    """The library raises what the command prints."""
    from zoo.generation.options import GenerationOptions
    from zoo.generation.prompt_file import read_prompts

    with pytest.raises(FormatError, match="cannot be read: No such file") as caught:
        list(read_prompts(Path("none.txt"), GenerationOptions(), CONFIG, zoo.Tokenizer()))
    assert isinstance(caught.value, ZooError)
