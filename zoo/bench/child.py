"""A process that runs one contender: it answers each line of JSON with a line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from zoo.bench.contenders import CONTENDERS


def main(name: str, path: str, precision: str, threads: str) -> None:
    """Load the model, report that, and generate whenever a request arrives."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Output that libraries print must not be taken for an answer.
    contender = CONTENDERS[name](Path(path), precision, int(threads))
    print(json.dumps({"nbytes": contender.nbytes, "cached_nbytes": contender.cached_nbytes}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        taken = contender.generate(request["prompts"], request["n"])
        found = {"seconds": [at - started for at, _ in taken], "ids": [token for _, token in taken]}
        print(json.dumps({**found, **_memory()}), file=answers)


def _memory() -> dict[str, int | None]:
    """Return peak resident memory, mapped files included, and current anonymous memory in bytes; None if unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {"peak_memory": None, "anonymous_memory": None}
    fields = dict(line.split(":", 1) for line in lines)
    peak, anonymous = (1024 * int(fields[name].split()[0]) for name in ("VmHWM", "RssAnon"))
    return {"peak_memory": peak, "anonymous_memory": anonymous}


if __name__ == "__main__":
    main(*sys.argv[1:])
