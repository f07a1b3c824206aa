"""A download of the 124M model's real size from a server that breaks off, with a user's commands."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256

import pytest
from faults import content_of
from weights_server import WeightsServer

import zoo

COMMAND = [sys.executable, "-m", "zoo"]


def breaks_off(chance):
    """A fault for all requests: every third answer ends in the middle, at any byte."""

    def fault(handler):
        if chance.random() < 1 / 3:
            handler.serve(content_of(handler), most=chance.randrange(6_000_000))
            return True
        return False

    return fault


@pytest.mark.slow
def test_the_124m_model_comes_through_a_bad_network(tmp_path):
    """A download that is killed and cut repeatedly ends, and the output is the published model."""
    zoo.save(zoo.create("gpt2-small", seed=6), tmp_path / "124M", to="openai")
    files = {f"124M/{path.name}": path for path in (tmp_path / "124M").iterdir()}
    with WeightsServer(files) as server:
        server.always = breaks_off(random.Random(4))
        names = "\n".join(
            f'"{path.name}" = {{ size = {path.stat().st_size}, sha256 = "{sha256(path.read_bytes()).hexdigest()}" }}'
            for path in files.values()
        )
        table = f'[gpt2-small.openai]\nurls = ["{server.url}124M/"]\n[gpt2-small.openai.files]\n{names}\n'
        (tmp_path / "sources.toml").write_text(table)
        environment = {key: value for key, value in os.environ.items() if key != "ZOO_OFFLINE"}
        environment |= {"ZOO_SOURCES": str(tmp_path / "sources.toml"), "ZOO_CACHE": str(tmp_path / "cache")}

        first = subprocess.Popen([*COMMAND, "download", "124M", "--to", str(tmp_path / "here")], env=environment)
        part = tmp_path / "here" / ".model.ckpt.data-00000-of-00001.part"
        while not part.exists() or part.stat().st_size < 50_000_000:
            assert first.poll() is None
            time.sleep(0.005)
        first.send_signal(signal.SIGINT)
        assert 1 == first.wait()
        assert part.stat().st_size >= 50_000_000
        begun, asked = part.stat().st_size, len(server.log)
        subprocess.run(
            [*COMMAND, "download", "124M", "--to", str(tmp_path / "here"), "--json"], env=environment, check=True
        )
        data = [
            int(asked.removeprefix("bytes=").partition("-")[0]) for name, asked in server.log[asked:] if "data" in name
        ]
        assert begun <= min(data)

        out = tmp_path / "gpt2.safetensors"
        convert = [*COMMAND, "convert", "--from", "openai", "--size", "124M", "--out", str(out), "--json"]
        report = json.loads(subprocess.run(convert, env=environment, check=True, capture_output=True).stdout)

    assert report["verified"] and report["lossless"]
    assert zoo.content_hash(tmp_path / "124M") == zoo.content_hash(tmp_path / "here") == zoo.content_hash(out)
    assert not any((tmp_path / "cache" / "sources").iterdir())  # the downloaded files are gone
