"""A command that is asked to end leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

import zoo


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
