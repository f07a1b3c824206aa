"""What holds for every command: exit status, options as typed, escapes, terminals, completion."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

import zoo
from zoo.cli._group import as_typed
from zoo.cli._show import show_list, show_table
from zoo.cli.convert import convert
from zoo.cli.diff import diff
from zoo.cli.main import main
from zoo.errors import OptionError, ZooError
from zoo.models.gpt2.config import GPTConfig
from zoo.train import TrainConfig

CONFIG = GPTConfig(vocab_size=97, context_length=13, width=30, n_heads=5, n_layers=2)


@pytest.fixture
def file(tmp_path):
    """A zoo file of a small model."""
    zoo.save(zoo.create(CONFIG, seed=4), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def commands(command=main, path=()):
    """Yield (path, command) of every command and subcommand."""
    for name, each in getattr(command, "commands", {}).items():
        yield (*path, name), each
        yield from commands(each, (*path, name))


def test_source_and_out_may_be_given_in_order(run, file, tmp_path):
    """Arguments and options mean the same; both at once is wrong usage."""
    assert 0 == run("convert", file, tmp_path / "a.bin", "--to", "llm.c", "-q")[0]
    assert 0 == run("convert", "--source", file, "-o", tmp_path / "b.bin", "--to", "llm.c", "-q")[0]
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert 2 == run("convert", file, tmp_path / "c.bin", "--out", tmp_path / "d.bin")[0]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["convert", "FILE", "-"], 2, "does not write to standard output"),
        (["convert", "FILE", "x.safetensors", "--to", "huggingface"], 1, "huggingface is written as a directory"),
        (["convert", "FILE", "x.gguf", "--max-shard-size", "1MB"], 1, "--max-shard-size N is for formats that split"),
        (["convert", "FILE", "FILE"], 1, "replace it with --force"),
        (["convert", "FILE", "noname"], 1, "name one with --to NAME"),
        (["convert", "modle.safetensors", "x.gguf"], 1, "did you mean model.safetensors"),
        (["diff", "FILE", "FILE", "--atol", "nan"], 2, "nan is not a finite number"),
        (["diff", "FILE", "note.txt"], 1, "--from-a or --from-b NAME"),
        (["eval", "-m", "FILE", "note.txt", "--stride", "-4"], 2, "'--stride'"),
        (["eval", "-m", "FILE", "note.txt", "--batch-size", "0"], 2, "'--batch-size'"),
        (["eval", "-m", "FILE", "note.txt", "--context", "14"], 2, "--context of 14 does not fit the model's 13"),
        (["eval", "-m", "FILE", "nite.txt"], 1, "did you mean note.txt"),
        (["train", "note.txt", "--size", "124M", "--out", "r", "--context", "0"], 2, "'--context'"),
        (["train", "note.txt", "--size", "124M", "--out", "r", "--steps", "0"], 2, "'--steps'"),
        (["train", "note.txt", "--size", "124M", "--out", "r", "--lora-rank", "2"], 2, "--lora-rank needs --model"),
        (["list", "xx"], 1, "unknown model 'xx'"),
        (["plot", "lossess", "r"], 2, "Did you mean losses?"),
        (["converrt"], 2, "Did you mean convert?"),
        (["push", "FILE", "noslash", "--dry-run", "d"], 1, "write org/name"),
    ],
)
def test_refusals_have_one_status_and_name_options_as_typed(run, file, monkeypatch, arguments, status, words):
    """1 is for what failed, 2 for what was typed wrongly; advice names options that the command has."""
    monkeypatch.chdir(file.parent)
    Path("note.txt").write_text("Every effort moves you")
    code, out, err = run(*(file if argument == "FILE" else argument for argument in arguments))

    assert (status, "") == (code, out)
    assert words in err
    assert "=True" not in err and "=NAME" not in err


def test_options_are_spelled_as_the_command_has_them():
    """The library's force=True, max_shard_bytes=N and top_k are what a user of the command would type."""
    assert as_typed(ZooError("x; use force=True or to=NAME"), convert) == "x; use --force or --to NAME"
    assert as_typed(ZooError("x; verify=False skips it"), convert) == "x; --no-verify skips it"
    assert as_typed(OptionError("must be small", option="max_shard_bytes"), convert) == "--max-shard-size must be small"
    assert as_typed(ZooError("say it with format=NAME"), diff) == "say it with --from-a or --from-b NAME"
    assert str(OptionError("must be small", option="atol")) == "atol must be small"


def test_every_file_that_is_written_is_o_and_has_force():
    """--out is -o in every command, and where there is an output there is --force (generate resumes its file)."""
    for path, command in commands():
        names = {name for param in command.params for name in param.opts}
        if "--out" in names and path != ("generate",):
            assert {"-o", "--force"} <= names, path


def test_help_is_not_broken_inside_of_an_option(run):
    """No line of any help ends in the middle of a word with a hyphen."""
    for path, _ in commands():
        code, out, _ = run(*path, "--help")
        assert code == 0
        assert [] == re.findall(r"[a-z]-$", out, re.MULTILINE), path


def test_the_defaults_that_train_tells_are_those_of_its_config():
    """Each [default: ...] in the help of zoo train that is a plain value is TrainConfig's."""
    told = {}
    for param in main.commands["train"].params:
        if isinstance(param, click.Option) and (found := re.search(r"\[default: ([^]]*)\]", param.help or "")):
            told[param.name] = found[1]
    plain = {name: value for name, value in told.items() if re.fullmatch(r"[\w.]+", value)}

    assert len(plain) > 12
    for name, value in plain.items():
        default = getattr(TrainConfig(), name)
        assert (str(default) == value) or float(default) == float(value), name


def test_only_one_module_prints():
    """click.echo is called where texts are escaped, and by completion for its script; nobody calls print."""
    found = set()
    for path in (Path(__file__).parents[2] / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "click.secho"):
                found.add(path.stem)

    assert found <= {
        "_show",
        "completion",
        "generate",
        "generate_text",
        "prompts",
    }  # the last two print the text of a model


def test_names_in_a_file_do_not_steer_the_terminal(run, tmp_path, capsys):
    """Control characters and direction marks in names come out as escapes, also in errors and tables."""
    evil = "a\x1b]52;c;eA\x07\u202e\n"
    show_table(["tensor", "n", "m"], [[evil, "1", "2"]])
    show_list([(evil, evil)])
    out = capsys.readouterr().out + run("inspect", tmp_path / "x\x1b[31m\u202e")[2]

    assert not set(out) & set("\x1b\x07\u202e")
    assert "\\x1b]52" in out and "\\u202e" in out


def test_a_full_disk_and_a_closed_stdin_are_no_tracebacks():
    """Writing to /dev/full is one line and status 1; a closed stdin is an empty text; Latin-1 shows escapes."""
    zoo_command = f"{sys.executable} -m zoo"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}

    def shell(line):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr

    assert shell(f"{zoo_command} list > /dev/full") == (
        1, "", "Error: cannot write to standard output: No space left on device\n"
    )  # fmt: skip
    assert shell(f"{zoo_command} tokenize - --json <&-") == (0, '{\n  "ids": [],\n  "pieces": []\n}\n', "")
    code, out, err = shell(f"{zoo_command} tokenize ' 日本'")
    assert (code, err) == (0, "")
    assert "Traceback" not in out


def test_tokenize_shows_ids_and_pieces(run):
    """Ids are the tokenizer's; the pieces are the text, and bytes of split characters are escaped."""
    found = json.loads(run("tokenize", "Every effort é moves", "--json")[1])

    assert found["ids"] == zoo.Tokenizer().encode("Every effort é moves")
    assert "".join(found["pieces"]) == "Every effort é moves"
    assert "   6109  'Every'\n" == run("tokenize", "-", stdin="Every")[1].rjust(17)


def completions(*words):
    """Return (type, value) of what is offered for the last word."""
    found = ShellComplete(main, {}, "zoo", "_ZOO_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(
    "words", [("inspect", "gpt2-m"), ("eval", "-m", "gpt2-m"), ("train", "-m", "gpt2-m"), ("push", "gpt2-m")]
)
def test_models_and_files_are_completed(words):
    """A checkpoint may be a name or a file, so both are offered."""
    assert [("plain", "gpt2-medium"), ("file", "gpt2-m")] == completions(*words)


def test_texts_and_runs_are_completed(tmp_path, monkeypatch):
    """Texts are files; runs are offered by name, beside files."""
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    (tmp_path / "runs" / "notes" / "metrics.jsonl").touch()
    monkeypatch.chdir(tmp_path)

    assert [("file", "no")] == completions("train", "no")
    assert [("plain", "runs/notes"), ("file", "ru")] == completions("plot", "losses", "ru")


def test_bash_offers_files_beside_names(run):
    """The script for bash does not throw names away when files are offered too."""
    script = run("completion", "bash")[1]

    assert "compgen -f" in script
    assert "compopt -o default" not in script


def test_plans_and_tables_fit_into_80_columns(run, monkeypatch):
    """On a narrow terminal the plan, the formats and the statistics of the packaged model keep to its width."""
    monkeypatch.setattr("zoo.cli._show.width", lambda: 80)
    for arguments in (("convert", "stories", "--to", "huggingface", "--dry-run"), ("formats",), ("list",)):
        code, out, _ = run(*arguments)
        assert code == 0
        assert [line for line in out.splitlines() if len(line) > 80] == []
    out = run("inspect", "stories", "--stats")[1]
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_inspect_and_diff_order_tensors_by_layer(run, tmp_path):
    """Both show the tensors of layer 0 before those of layer 1, in every format."""
    model = zoo.create(CONFIG, seed=1)
    zoo.save(model, tmp_path / "m.bin", to="llm.c")
    names = list(json.loads(run("inspect", tmp_path / "m.bin", "--json")[1])["tensors"])

    assert names.index("fcprojb.0") < names.index("ln1w.1")


def test_two_sizes_are_different_models(run, file, tmp_path):
    """A width that differs matters; dropout alone does not."""
    zoo.save(zoo.create(CONFIG.replace(width=40), seed=4), tmp_path / "wide.safetensors")
    code, out, _ = run("diff", file, tmp_path / "wide.safetensors")

    assert code == 1
    assert "config: width is 30 and 40\n" in out


def test_a_run_is_trained_for_longer(run, tmp_path, monkeypatch):
    """--resume with --steps goes on to the new number, which the run then has; fewer than done are refused."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("Every effort moves you a little forward. " * 40)
    Path("c.json").write_text(json.dumps({**CONFIG.to_dict(), "vocab_size": 50257, "vocab_rows": 50257}))
    begin = ("train", "t.txt", "--size", "c.json", "--out", "r", "--steps", 2, "--batch-size", 2, "--context", 11)
    assert 0 == run(*begin, "-q")[0]
    assert 1 == run(*begin, "-q")[0]
    longer = json.loads(run("train", "--resume", "r", "--steps", 5, "--json")[1])
    again = json.loads(run("train", "--resume", "r", "--json")[1])

    assert [(5, 5), (5, 5)] == [(each["step"], each["steps"]) for each in (longer, again)]
    assert "--steps must be at least the 5" in run("train", "--resume", "r", "--steps", 4)[2]
    assert 0 == run(*begin, "-q", "--force")[0]


def test_a_text_that_is_too_short_leaves_no_run(run, tmp_path, monkeypatch):
    """The next try is not blocked by what the first one left, and an earlier run is not replaced by nothing."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("Every")
    code, _, err = run("train", "t.txt", "--size", "test-tiny", "--out", "r")

    assert code == 1
    assert "not enough for one window" in err
    assert [Path("t.txt")] == list(Path().iterdir())


def test_a_model_whose_files_are_known_is_not_added_from_others(run, tmp_path, monkeypatch):
    """gpt2-small is published with SHA-256; random weights take its name only with --force."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    zoo.save(zoo.create(zoo.get_config("gpt2-small").replace(n_layers=1), seed=1), tmp_path / "fake", to="openai")
    code, _, err = run("cache", "add", "gpt2-small", tmp_path / "fake")

    assert code == 1
    assert "is not the published gpt2-small" in err and "give --force to accept it" in err


def test_reprs_are_short():
    """A checkpoint or plan in a notebook is a line, not its vocabulary; tables are HTML, escaped."""
    plan = zoo.make_plan("stories", "huggingface")

    assert len(repr(plan)) < 200 > len(repr(zoo.open_checkpoint("stories")[1]))
    assert "<td>h.7.mlp.c_proj.weight</td>" in plan._repr_html_()
