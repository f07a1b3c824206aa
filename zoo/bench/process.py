"""Start a contender in its own process and talk to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zoo.errors import ZooError

_QUIET = 0.05  # seconds between turns, in which the threads of the previous contender go to sleep


_SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with who started it
while True:
    pass
"""


@contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """Keep n cores busy with processes that compute forever."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN], stdin=subprocess.PIPE) for _ in range(n)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.communicate()


class Process:
    """A process with a contender that has loaded its file. A context manager.

    Attributes:
        nbytes: Bytes of weights that are read per token; None if unknown.
        cached_nbytes: Bytes of keys and values that are read per token and earlier token; None if unknown.
    """

    def __init__(self, name: str, path: Path, precision: str, threads: int) -> None:
        """Start the process and wait until the model is loaded.

        Raises:
            ZooError: The process ended.
        """
        self._name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, it is open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "zoo.bench.child", name, str(path), precision, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        )
        try:
            loaded = self._answer()
            self.nbytes: int | None = loaded["nbytes"]
            self.cached_nbytes: int | None = loaded["cached_nbytes"]
        except ZooError:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def generate(self, prompts: list[list[int]], n: int) -> dict[str, Any]:
        """Continue prompts and return {"seconds", "ids", "peak_memory", "anonymous_memory"}.

        Raises:
            ZooError: The process ended.
        """
        time.sleep(_QUIET)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompts": prompts, "n": n}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its output is read below
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise ZooError(f"{self._name} failed: {said[-1]}")
        found: dict[str, Any] = json.loads(line)
        return found


def seconds_of_command(path: Path, prompt: str, threads: int) -> float:
    """Return the seconds from the start of `zoo generate` to the first token in its output.

    Raises:
        ZooError: The command failed.
    """
    options = ["-m", str(path), "-n", "1", "-t", "0", "--threads", str(threads)]
    command = [sys.executable, "-P", "-m", "zoo", "generate", *options, prompt]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None and process.stderr is not None
        shown = b""
        while len(shown) <= len(prompt.encode()):  # the output starts with the prompt
            part = process.stdout.read(100)
            if not part:
                raise ZooError(f"zoo generate failed: {process.stderr.read().decode(errors='replace').strip()}")
            shown += part
        return time.perf_counter() - started


def seconds_of_peer(name: str, path: Path, precision: str, threads: int, prompt: list[int]) -> float:
    """Return the seconds that a new Python process takes to import a library, load the file and return the first id."""
    started = time.perf_counter()
    with Process(name, path, precision, threads) as process:
        process.generate([prompt], 1)
        return time.perf_counter() - started
