import json
import math
import re
import subprocess
import sys

import pytest
import torch

import zoo
from zoo.cli.main import main
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=50257, context_length=23, width=30, n_heads=5, n_layers=2, dropout=0.25)


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    """A zoo file of a small model that knows GPT-2's tokens."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    zoo.save(zoo.create(CONFIG, seed=4, init="book"), path)
    return path


def test_help_names_every_command(run):
    """Zoo --help has each command with a line of what it does, and examples."""
    code, out, _ = run("--help")

    assert code == 0
    for command in main.commands.values():
        assert re.search(rf"^  {command.name} +\w", out, re.MULTILINE)
        assert command.help
        assert "Example" in command.help
    assert "Examples:" in out


def test_the_version_is_the_packages(run):
    """Zoo --version prints the version of the library."""
    assert (0, f"zoo, version {zoo.__version__}\n", "") == run("--version")


def test_convert_reports_what_it_did(run, file, tmp_path):
    """The report on stdout names counts, formats and verification; nothing is on stderr."""
    code, out, err = run("convert", "--source", file, "--to", "openai", "--out", tmp_path / "out")

    assert (code, err) == (0, "")
    assert "28 tensors, 1,530,840 parameters (tied head), 6.1 MB, zoo -> openai" in out
    assert "lossless; read back and equal bit for bit" in out
    assert re.search("note: +the format does not store dropout: 0.25 will read as 0.1", out)


def test_convert_as_json_is_the_report(run, file, tmp_path):
    """--json prints the whole report and nothing else."""
    code, out, err = run(
        "convert", "--source", file, "--out", tmp_path / "x.safetensors", "--json", "--dtype", "bfloat16"
    )
    report = json.loads(out)

    assert (code, err) == (0, "")
    assert (report["lossless"], report["cast"], report["target_format"]) == (False, {"float32 -> bfloat16": 28}, "zoo")


def test_quiet_prints_nothing(run, file, tmp_path):
    """-q is for scripts that only want the exit status."""
    assert run("convert", "-q", "--source", file, "--out", tmp_path / "x.safetensors") == (0, "", "")


def test_a_dry_run_shows_the_plan_and_writes_nothing(run, file, tmp_path):
    """Each source tensor, its operation and its target are shown; no file appears."""
    code, out, _ = run("convert", "--source", file, "--to", "huggingface", "--dry-run", "--out", tmp_path / "hf")
    as_json = json.loads(run("convert", "--source", file, "--to", "huggingface", "--dry-run", "--json")[1])

    assert code == 0
    assert re.search(
        r"blocks\.0\.attn\.qkv\.weight  90 x 30\n  o i -> i o: h\.0\.attn\.c_attn\.weight  30 x 90  float32\n", out
    )
    assert "zoo -> huggingface, 6.1 MB, lossless" in out
    assert len(as_json["steps"]) == 28
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x"], "Missing argument 'SOURCE'"),
        (["--source", "x"], "Missing argument 'OUT'"),
        (["--source", "x", "--out", "y", "--size", "no.json"], "no.json: cannot be read"),
        (["--source", "x", "--out", "y", "--max-shard-size", "2 apples"], "is not a size; write it like 2GB"),
        (["--sauce", "x"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_two(run, arguments, words):
    """A call that cannot be meant is answered with usage and status 2."""
    code, out, err = run("convert", *arguments)

    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "--source", "/no/such", "--out", "y.safetensors"], "/no/such: there is no such file or directory"),
        (
            ["convert", "--source", "FILE", "--out", "y.safetensors", "--size", "335M"],
            "unknown model '335M': did you mean 355M",
        ),
        (["convert", "--source", "FILE", "--out", "FILE"], "exists already"),
        (["convert", "--source", "FILE", "--out", "y.safetensors", "--from", "opnai"], "did you mean openai"),
        (["generate", "-m", "gpt2-small", "x"], "the weights of gpt2-small are not on this machine"),
        (["generate", "-m", "FILE", "--dtype", "float31", "x"], "did you mean float32"),
        (["inspect", "/no/such"], "there is no such file or directory"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_status_one(run, file, arguments, words):
    """What zoo refuses is told in one line without a traceback; stdout stays empty."""
    code, out, err = run(*(file if argument == "FILE" else argument for argument in arguments))

    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert words in err


def test_generate_prints_prompt_and_text(run, file):
    """The text on stdout is the prompt and what zoo.complete gives for the same seed."""
    expected = zoo.complete(zoo.load(file), "Every effort", max_new_tokens=9, seed=5, temperature=0.8)

    assert (0, f"Every effort{expected}\n", "") == run("generate", "-m", file, "-n", 9, "--seed", 5, "Every effort")


def test_generate_reads_stdin(run, file):
    """A prompt of - comes from stdin, without its last newline."""
    by_argument = run("generate", "-m", file, "-n", 5, "-t", 0, "Once upon")

    assert by_argument == run("generate", "-m", file, "-n", 5, "-t", 0, "-", stdin="Once upon\n")


def test_generate_gives_samples_and_json(run, file):
    """--samples and --json give texts, ids and log-probabilities, the same as one at a time with following seeds."""
    code, out, _ = run("generate", "-m", file, "-n", 4, "--samples", 2, "--seed", 8, "--json", "Hi")
    samples = json.loads(out)
    alone = [zoo.complete(zoo.load(file), "Hi", max_new_tokens=4, seed=seed) for seed in (8, 9)]

    assert (code, len(samples)) == (0, 2)
    assert alone == [sample["text"] for sample in samples]
    assert [len(sample["ids"]) for sample in samples] == [4, 4]
    assert all(sample["finish_reason"] == "length" and max(sample["logprobs"]) < 0 for sample in samples)
    plain = run("generate", "-m", file, "-n", 4, "--samples", 2, "--seed", 8, "Hi")[1]
    assert f"--- sample 1\nHi{alone[0]}\n--- sample 2\nHi{alone[1]}\n" == plain


def test_list_shows_models_as_table_and_json(run):
    """Zoo list has name, sizes and aliases; --json has the configs; a pattern selects."""
    _, out, _ = run("list", "gpt2-*")
    found = json.loads(run("list", "124M", "--json")[1])

    assert re.search(r"^gpt2-medium +355M, 345M +354,823,168 +24 +1,024 +1,024 +1.4 GB +online$", out, re.MULTILINE)
    assert "test-tiny" not in out
    assert list(found) == ["gpt2-small"]
    assert found["gpt2-small"]["n_parameters"] == 124_439_808


def test_formats_are_listed_as_table_and_json(run):
    """Zoo formats has every format that the library lists."""
    _, out, err = run("formats")
    found = json.loads(run("formats", "--json")[1])

    assert err == ""
    assert [info.name for info in zoo.list_formats()] == [info["name"] for info in found]
    assert all(re.search(rf"^{re.escape(info['name'])} ", out, re.MULTILINE) for info in found)


def test_inspect_shows_config_and_tensors(run, file):
    """Zoo inspect has format, config, and shape, dtype and size of every tensor."""
    code, out, _ = run("inspect", file)

    assert code == 0
    assert "zoo, 1,530,840 parameters" in out
    assert re.search(r"^blocks\.1\.mlp\.down\.weight +30 x 120 +float32 +14\.4 kB$", out, re.MULTILINE)


def test_inspect_measures_values_and_counts_nan(run, tmp_path):
    """--stats has mean, deviation, range and the number of NaN of every tensor, as a table and as JSON."""
    model = zoo.create(CONFIG, seed=1)
    with torch.no_grad():
        model.final_norm.weight[3], model.final_norm.weight[5] = float("nan"), float("inf")
    zoo.save(model, tmp_path / "m.safetensors")
    _, out, _ = run("inspect", tmp_path / "m.safetensors", "--stats")
    tensor = json.loads(run("inspect", tmp_path / "m.safetensors", "--stats", "--json")[1])["tensors"][
        "final_norm.weight"
    ]

    assert re.search(r"^final_norm\.weight +30 +float32 +120 B +1 +0 +1 +1 +1 +1$", out, re.MULTILINE)
    assert tensor == {"shape": [30], "dtype": "float32", "bytes": 120, "mean": 1.0, "std": 0.0} | {
        "min": 1.0,
        "max": 1.0,
        "nan": 1,
        "inf": 1,
        "norm": math.sqrt(28),
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run, shell):
    """The script for each shell asks zoo itself what may come next."""
    code, out, _ = run("completion", shell)

    assert code == 0
    assert "_ZOO_COMPLETE" in out


def test_completion_knows_formats_and_models():
    """Pressing tab after --to or --size offers formats and models."""
    from click.shell_completion import ShellComplete

    complete = ShellComplete(main, {}, "zoo", "_ZOO_COMPLETE")

    assert [item.value for item in complete.get_completions(["convert", "--to"], "hug")] == ["huggingface"]
    assert [item.value for item in complete.get_completions(["convert", "--size"], "gpt2-m")] == ["gpt2-medium"]
    assert "bfloat16" in [item.value for item in complete.get_completions(["convert", "--dtype"], "b")]


def test_a_size_may_be_a_json_file(run, tmp_path):
    """A model that is not registered can be described by a file."""
    config = CONFIG.replace(width=128, n_heads=4)
    zoo.save(zoo.create(config), tmp_path / "m.safetensors")
    (tmp_path / "c.json").write_text(json.dumps(config.to_dict()))
    arguments = ("convert", "-q", "--source", tmp_path / "m.safetensors", "--out", tmp_path / "o.safetensors", "--size")
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(config.replace(n_heads=2).to_dict()))

    assert run(*arguments, tmp_path / "c.json")[0] == 0
    assert "it has n_heads 4 (not 2)" in run(*arguments, wrong, "--force")[2]


def test_a_bug_shows_its_traceback(run, file, monkeypatch):
    """Only a ZooError becomes one line: anything else is a bug, and comes out as it is."""
    monkeypatch.setattr("zoo.formats.opening.open_path", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("inspect", file)


def test_the_command_is_installed(tmp_path):
    """Python -m and the installed script answer; text streams as UTF-8."""
    done = subprocess.run([sys.executable, "-c", "from zoo.cli.main import main; main(['list'])"], capture_output=True)

    assert done.returncode == 0
    assert b"gpt2-xl" in done.stdout
