"""The process that reads HDF5 files (worker.py): started when it is needed, ended after anything unexpected."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.errors import CorruptFile, UnsafeFile

_ENDED = "is not a valid HDF5 file (time or memory limit exceeded); copy or download it again"


class WorkerProcess:
    """One worker at a time. It belongs to the process that started it: a forked child starts its own.

    Requests are numbered. Whatever interrupts one (Ctrl-C, a timeout) ends the worker, because its answer would be
    taken for that of the next request.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._number = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.stop)

    def ask(self, path: Path, request: dict[str, str], prefix: str = "") -> tuple[dict[str, Any], bytes]:
        """Return an answer and the bytes behind it.

        Args:
            path: named in errors.
            request: see worker.py.
            prefix: Prefix of the sentence in errors.

        Raises:
            CorruptFile, UnsafeFile: the answer is that, or there is none.
        """
        with self._lock:
            try:
                answer, content = self._exchange(request)
            except (OSError, ValueError):  # it has ended, perhaps in the middle of a line
                self.stop()
                raise CorruptFile(path, prefix + _ENDED) from None
            except BaseException:
                self.stop()
                raise
        if "error" in answer:
            kind = UnsafeFile if answer["error"] == "unsafe" else CorruptFile
            raise kind(path, prefix + answer["problem"])
        return answer, content

    def _exchange(self, request: dict[str, str]) -> tuple[dict[str, Any], bytes]:
        if self._process is None:
            self._process = _start()
        assert self._process.stdin
        assert self._process.stdout
        self._number += 1
        line = memoryview(json.dumps({**request, "number": self._number}).encode() + b"\n")
        while line:  # past the buffer, of which a forked child would have a copy
            line = line[os.write(self._process.stdin.fileno(), line) :]
        answer = json.loads(self._process.stdout.readline())
        if answer["number"] != self._number:
            raise ValueError("the answer of another request")
        nbytes = answer.get("nbytes", 0)
        content = self._process.stdout.read(nbytes)
        if len(content) != nbytes:
            raise ValueError("truncated")
        return answer, content

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not sent yet
                    pipe.close()  # type: ignore[union-attr] # both are pipes
            process.wait()

    def _forget(self) -> None:
        """Begin without a worker: in a forked child, where it is the parent's, and a lock may be held for ever."""
        if self._process:
            self._process.returncode = 0  # so that nobody waits for it
        self._process, self._lock = None, threading.Lock()


def _start() -> subprocess.Popen[bytes]:
    # -P: a file h5py.py in the working directory is not what shall be imported.
    script = str(Path(__file__).with_name("worker.py"))
    return subprocess.Popen(
        [sys.executable, "-P", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
