"""A command that is asked to end leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

import zoo
from zoo.cli.main import main


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM")
def test_sigterm_removes_the_temporary_files_of_a_conversion(tmp_path):
    """The exit status says which signal it was, and neither an output nor a temporary file is there."""
    config = zoo.GPTConfig(vocab_size=49973, context_length=131, width=210, n_heads=7, n_layers=9)
    zoo.save(zoo.create(config, seed=11), tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "zoo", "convert", "-q", "--source", "m.safetensors", "--out", "out.gguf"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".zoo-*.tmp/*")) and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        status = process.wait()

    assert status == 143
    assert ["m.safetensors"] == os.listdir(tmp_path)


def test_a_command_leaves_the_handlers_of_its_process_alone():
    """A program that runs a command in its own process keeps its handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    assert CliRunner().invoke(main, ["list"]).exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before
