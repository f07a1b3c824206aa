"""zoo generate of one prompt: where the prompt comes from, where the text goes, and what is said on stderr."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import zoo
from zoo.cli.main import main
from zoo.engine import is_built
from zoo.hub import default_model

needs_engine = pytest.mark.skipif(not is_built(), reason="the C library was not built here")
CONFIG = zoo.GPTConfig(vocab_size=50257, context_length=23, width=30, n_heads=5, n_layers=2, dropout=0.25)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A zoo file of a small model that knows GPT-2's tokens."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    zoo.save(zoo.create(CONFIG, seed=4, init="book"), path)
    return path


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Run zoo generate in tmp_path, with a seed; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, stdin=None, source=model):
        command = ["generate", "-m", str(source), "--seed", "1", "-n", "5", *map(str, arguments)]
        done = CliRunner().invoke(main, command, input=stdin)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


class TestPrompt:
    def test_from_everywhere_it_is_the_same(self, run):
        """As an argument, from stdin with and without -, from a file, and as ids; a last line end does not count."""
        Path("prompt.txt").write_text("Every effort\n", encoding="utf-8")
        ids = ",".join(map(str, zoo.Tokenizer().encode("Every effort")))
        expected = run("Every effort")

        assert expected[0] == 0 and expected[1].startswith("Every effort")
        assert expected == run(stdin="Every effort\n") == run("-", stdin="Every effort\r\n")
        assert expected == run("--file", "prompt.txt") == run("-f", "prompt.txt", stdin="something else")
        assert expected == run("--ids", ids) == run("--file", "-", stdin="Every effort")

    @pytest.mark.parametrize(
        ("arguments", "stdin", "problem"),
        [
            (["-f", "none.txt"], None, "the prompt none.txt cannot be read: No such file"),
            (["-"], b"caf\xe9", "the prompt in stdin is not text in UTF-8"),
            (["--ids", "1,60000"], None, "the prompt has token id 60000, but the model's ids are 0 to 50256"),
        ],
    )
    def test_one_that_cannot_be_read(self, run, arguments, stdin, problem):
        """One line of error each."""
        code, out, err = run(*arguments, stdin=stdin)

        assert (code, out) == (1, "")
        assert problem in err

    @pytest.mark.parametrize("arguments", [["a", "-f", "b"], ["a", "--ids", "1"], ["-f", "b", "--ids", "1"]])
    def test_only_one(self, run, arguments):
        """Two prompts are a usage error."""
        code, _, err = run(*arguments)

        assert (code, "Give one of PROMPT, --file and --ids." in err) == (2, True)

    def test_closed_stdin(self, model):
        """Without stdin a prompt as an argument works, and - is an error."""
        command = [sys.executable, "-m", "zoo", "generate", "-m", str(model), "-n", "2"]
        close = "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])"
        done = [
            subprocess.run([sys.executable, "-c", close, *command, prompt], capture_output=True, text=True)
            for prompt in ("Hi", "-")
        ]

        assert [each.returncode for each in done] == [0, 1]
        assert done[0].stdout.startswith("Hi")
        assert done[1].stderr == "Error: stdin is closed; give the prompt as an argument, or with --file\n"

    def test_a_model_without_a_vocabulary(self, run, tmp_path):
        """A text is refused with the way to give ids; with --ids the new ids are printed."""
        zoo.save(zoo.create(CONFIG.replace(vocab_size=97), seed=2), tmp_path / "ids.safetensors")
        code, out, err = run("Every effort", source=tmp_path / "ids.safetensors")
        assert (code, out) == (1, "")
        assert "the checkpoint has no vocabulary; give token ids" in err

        code, out, err = run("--ids", "5,7", source=tmp_path / "ids.safetensors")
        assert (code, err) == (0, "")
        assert re.fullmatch(r"5,7(,\d+){5}\n", out)
        assert out == "5,7," + run("--ids", "5,7", "--no-prompt", source=tmp_path / "ids.safetensors")[1]


class TestOutput:
    def test_without_the_prompt(self, run):
        """--no-prompt leaves the new text."""
        assert run("Every effort")[1] == "Every effort" + run("--no-prompt", "Every effort")[1]

    def test_to_a_file(self, run):
        """-o has what stdout would have had, is not replaced without --force, and may not be -."""
        expected = run("Every effort")[1]

        assert run("-o", "text.txt", "Every effort") == (0, "", "")
        assert expected == Path("text.txt").read_text(encoding="utf-8")
        assert run("-o", "text.txt", "Hello")[0] == 1
        assert run("-o", "text.txt", "--force", "--samples", "2", "Hello")[0] == 0
        assert "--- sample 2\nHello" in Path("text.txt").read_text(encoding="utf-8")
        assert run("-o", "-", "Hello")[0] == 2
        assert not Path("-").exists()

    def test_json_has_ids_and_the_best_tokens(self, run):
        """The same names as in results: text, ids, finish_reason; --top-logprobs adds the best tokens of each step."""
        (sample,) = json.loads(run("--json", "--top-logprobs", "3", "Every effort")[1])

        assert [*sample] == ["prompt", "text", "ids", "logprobs", "finish_reason", "top_logprobs"]
        assert [len(best) for best in sample["top_logprobs"]] == [3] * 5 and len(sample["ids"]) == 5
        for best, token, logprob in zip(sample["top_logprobs"], sample["ids"], sample["logprobs"], strict=True):
            assert [*best[0]] == ["id", "text", "logprob"]
            assert best[0]["logprob"] >= best[1]["logprob"] >= best[2]["logprob"]
            assert logprob <= best[0]["logprob"]
            assert all(each["logprob"] == logprob for each in best if each["id"] == token)
            assert best[0]["text"] == zoo.Tokenizer().decode([best[0]["id"]])

    def test_statistics(self, run):
        """--stats is a line on stderr; stdout is the same."""
        code, out, err = run("--stats", "Every effort")

        assert (code, out) == (0, run("Every effort")[1])
        assert re.fullmatch(r"5 tokens in \d+\.\d\d s; first after \d+\.\d{3} s, then [\d.]+ tokens/s\n", err)

    def test_progress_of_a_text_that_is_not_streamed(self, run, monkeypatch):
        """On a terminal, stderr counts the tokens of all samples; not those of a streamed text."""
        plain = run("--json", "--samples", 2, "Every effort")
        monkeypatch.setattr("zoo.cli._progress.is_terminal", lambda _: True)
        monkeypatch.setenv("FORCE_COLOR", "1")

        code, out, err = run("--json", "--samples", 2, "Every effort")

        assert (code, out) == plain[:2]
        assert "tokens" in err and "10/10" in err
        assert "" == plain[2] and "tokens" not in run("Every effort")[2]

    def test_a_prompt_past_the_context_is_said(self, run):
        """So is the text's, once, when it gets there; not with a policy that is cheap."""
        long = run("word " * 30)
        assert "note: the prompt has 31 tokens; the model sees only the last 23 (its context)" in long[2]

        code, _, err = run("-n", 30, "Every effort")
        assert code == 0
        assert err == (
            "note: the context of 23 tokens is full; each further token now recomputes it. "
            "--past-context half is faster\n"
        )
        assert run("-n", 30, "--past-context", "half", "Every effort")[2] == ""
        assert run("-n", 20, "Every effort")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--device", "nonsense"], "--device 'nonsense' is not available on this machine; use cpu or auto"),
        (["--device", "cuda:99"], "--device 'cuda:99' is not available on this machine; use cpu or auto"),
        (["--top-k", "0"], "--top-k must be an integer of at least 1, not 0"),
        (["--temperature", "nan"], "--temperature must be 0, or from 1e-06 to 1e+06, not nan"),
        (["--presence-penalty", "1e9"], "--presence-penalty must be from -100 to 100"),
        (["--stop", ""], "--stop must hold strings that are not empty, not ''"),
    ],
)
def test_an_error_names_the_option_as_it_is_typed(run, arguments, problem):
    """One line, without a traceback, and the status of wrong usage."""
    code, out, err = run(*arguments, "Hi")

    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {problem}")
    assert err.count("\n") == 1


def test_device_auto_runs_everywhere(run):
    """It is the CPU where there is no GPU."""
    assert run("--device", "auto", "Hi")[0] == 0


@pytest.mark.parametrize("engine", [pytest.param("native", marks=needs_engine), "torch"])
def test_weights_that_are_not_finite(run, tmp_path, engine):
    """One line says where to look."""
    broken = zoo.create(CONFIG, seed=1)
    broken.final_norm.bias.data[3] = float("nan")
    zoo.save(broken, tmp_path / "nan.safetensors")
    code, _, err = run("--engine", engine, "Hi", source=tmp_path / "nan.safetensors")

    assert code == 1
    assert err == "Error: the model's logits are not finite; check the weights with `zoo inspect --stats`\n"


class TestDefaultModel:
    @pytest.fixture
    def settings(self, tmp_path, monkeypatch):
        """The user's settings file."""
        monkeypatch.setattr(default_model, "config_file", lambda: tmp_path / "config.toml")
        monkeypatch.delenv("ZOO_MODEL", raising=False)
        return tmp_path / "config.toml"

    def generate(self):
        done = CliRunner().invoke(main, ["generate", "-n", "2", "Hi"])
        return done.exit_code, done.stderr

    def test_stories_unless_another_is_named(self, settings, model, monkeypatch):
        """ZOO_MODEL comes before the settings file, which comes before the packaged model; stderr says which it is."""
        assert "using the small model 'stories'" in self.generate()[1]
        settings.write_text(f'model = "{model}"\n')
        assert self.generate() == (0, f"note: using the model '{model}' of {settings}\n")
        monkeypatch.setenv("ZOO_MODEL", "stories")
        assert "using the small model 'stories'" in self.generate()[1]
        monkeypatch.setenv("ZOO_MODEL", str(model))
        assert self.generate() == (0, f"note: using the model '{model}' of ZOO_MODEL\n")

    @pytest.mark.parametrize("text", ["model = 5\n", "model =\n", 'model = ""\n'])
    def test_settings_that_are_wrong(self, settings, text):
        """The error names the file."""
        settings.write_text(text)
        code, err = self.generate()

        assert (code, str(settings) in err) == (1, True)

    def test_a_model_in_the_cache_is_not_taken(self, settings, monkeypatch):
        """gpt2-small is never chosen because it happens to be downloaded."""
        monkeypatch.setattr("zoo.hub.model_cache.Cache.find", lambda *_: pytest.fail("the cache was searched"))

        assert self.generate()[0] == 0


def test_a_terminal_without_a_prompt_is_not_waited_for(run, monkeypatch):
    """On a terminal there is nothing to read: the text starts from <|endoftext|>, and a note says so."""
    import zoo.cli.generate as command

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    given = command.Arguments(**dict.fromkeys(command.Arguments.__dataclass_fields__))
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert command._read_prompt(given) == ""


def test_int8_prefill_is_for_quantised_weights(run, monkeypatch):
    """Float weights and torch are refused; without the instructions, stderr says that nothing changes."""
    monkeypatch.setenv("ZOO_ENGINE_ISA", "generic")
    assert run("--int8-prefill", "Hi")[0] == 1 and "--quantize int8" in run("--int8-prefill", "Hi")[2]
    assert "--int8-prefill needs the native engine" in run("--int8-prefill", "--engine", "torch", "Hi")[2]

    plain = run("--quantize", "int8", "Hi")
    code, out, err = run("--quantize", "int8", "--int8-prefill", "Hi")

    assert (code, out) == plain[:2]
    assert "--int8-prefill changes nothing" in err and "--int8-prefill" not in plain[2]
