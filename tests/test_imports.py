"""What is imported costs time, so that too is tested, in child processes."""

import subprocess
import sys
from pathlib import Path

import pytest

import zoo

HEAVY = ("torch", "tensorflow", "transformers", "rich", "tiktoken", "matplotlib", "h5py", "huggingface_hub", "requests")


def modules_after(program, *arguments):
    """The names of the heavy modules that a program has imported when it ends."""
    report = f"\nimport sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + report, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_zoo_imports_nothing_else():
    """`import zoo` loads no numpy either: the names load when they are used."""
    program = "import zoo, sys; assert 'numpy' not in sys.modules and 'click' not in sys.modules"

    assert modules_after(program) == "[]"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["convert", "--help"], ["list"], ["formats"], ["completion", "bash"]]
)
def test_help_and_lists_import_nothing_heavy(arguments):
    """Zoo --help and the lists answer without torch."""
    program = f"from zoo.cli.main import main\ntry: main({arguments})\nexcept SystemExit: pass"

    assert modules_after(program) == "[]"


@pytest.mark.parametrize("to", ["openai", "huggingface", "book", "zoo"])
def test_a_conversion_needs_no_torch(tmp_path, to):
    """From and to every format of the first four, no tensor library but numpy is loaded, nor the tokenizer."""
    model = zoo.create(zoo.GPTConfig(vocab_size=97, context_length=23, width=64, n_heads=1, n_layers=2))
    zoo.save(model, tmp_path / "a.safetensors")
    program = (
        f"import zoo; zoo.convert({str(tmp_path / 'a.safetensors')!r}, {str(tmp_path / 'b')!r}, to={to!r})\n"
        f"zoo.convert({str(tmp_path / 'b')!r}, {str(tmp_path / 'c.safetensors')!r})"
    )

    assert modules_after(program) == "[]"


def test_the_folders_refuse_other_names(tmp_path):
    """converters/ and cli/ are parts of zoo; imported by themselves they would be a second copy, so they refuse."""
    root = str(Path(__file__).parents[1])
    for name in ("converters", "cli"):
        program = f"import sys; sys.path.insert(0, {root!r}); import {name}"
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)

        assert f"import zoo.{name}, not {name}" in done.stderr
