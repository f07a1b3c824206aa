"""zoo's downloader and curl, fetching the same file from the same server on this machine, in turn; ratios.

zoo writes a part, hashes it with SHA-256 meanwhile, and renames it; curl writes the file. Of zoo's processes, the start
of Python and the imports (0.15 s) do not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVE = """
import sys, time; sys.path.append(sys.argv[2])
from pathlib import Path
from weights_server import WeightsServer
with WeightsServer({"file.bin": Path(sys.argv[1])}) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""

FETCH = """
import sys, time
from pathlib import Path
from zoo.hub.http.client import Client
from zoo.hub.source_table import RemoteFile
from zoo.hub.http.resumable_download import fetch
began = time.perf_counter()
with Client() as client:
    found = fetch(RemoteFile("file.bin", (sys.argv[1],), None, sys.argv[3]), Path(sys.argv[2]), client=client)
print(time.perf_counter() - began)
"""


def main() -> None:
    """Serve a file, download it alternately, and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=500, help="size of the file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, help="where to write; a temporary directory without it")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory = Path(name)
        served = directory / "served.bin"
        sha256 = _make(served, arguments.mb)
        tests = str(Path(__file__).parent.parent / "tests")
        with subprocess.Popen(
            [sys.executable, "-c", SERVE, str(served), tests], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin and server.stdout
            url = f"{server.stdout.readline().strip()}file.bin"
            seconds = _alternate(url, directory, sha256, arguments.rounds)
            server.stdin.close()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(curl / zoo for curl, zoo in zip(seconds["curl"], seconds["zoo"], strict=True))
    if arguments.json:
        print(json.dumps({"MB": arguments.mb, "seconds": medians, "zoo over curl": ratio}))
        return
    for name, median in medians.items():
        print(f"{name:5} {median:6.2f} s  {arguments.mb / median:7.0f} MB/s")
    print(f"zoo / curl, speed: {ratio:.2f}")


def _make(path: Path, megabytes: int) -> str:
    chance, digest = random.Random(1), hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(megabytes):
            piece = chance.randbytes(1_000_000)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _alternate(url: str, directory: Path, sha256: str, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"curl": [], "zoo": []}
    for _ in range(rounds):
        for name, times in seconds.items():
            target = directory / f"{name}.bin"
            target.unlink(missing_ok=True)
            times.append(_curl(url, target) if name == "curl" else _zoo(url, target, sha256))
    return seconds


def _curl(url: str, target: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["curl", "--silent", "--fail", "--output", str(target), url], check=True)
    return time.perf_counter() - began


def _zoo(url: str, target: Path, sha256: str) -> float:
    command = [sys.executable, "-c", FETCH, url, str(target), sha256]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
