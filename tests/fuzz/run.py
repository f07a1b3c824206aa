"""Fuzz the readers: `PYTHONPATH=tests python -m fuzz.run --reader gguf --seconds 60`.

Inputs are made by mutate.py and judged by watch.py, in a process of their own with a limit on its memory: if it dies or
hangs, the input is known by its number. What breaks a promise is written to --findings, once for each place in the
code. With --engine atheris, libFuzzer follows the branches of zoo's code and keeps what reaches new ones.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from . import guided
from .cases import READERS, Case, Content, save_case, seeds
from .mutate import mutate
from .watch import Broken, Watch

_SLOTS = struct.Struct("<qqqdqd")  # next number, accepted, findings, when it began, most memory, most seconds
_HANG = 20.0  # seconds of wall-clock time on one input; the machine may be busy
_LOOK = 0.05  # seconds between looks at the worker
_ADDRESS_SPACE = 2 << 30  # beyond the start; threads and their arenas take some of it without using it
_DEEP = 0.01  # share of the inputs that are converted, inspected and loaded whatever they are


@dataclass
class Tally:
    """What a run did."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    most_memory: int = 0
    findings: Counter[str] = field(default_factory=Counter)


def make_case(reader: str, seed: int, number: int, valid: dict[str, Case]) -> tuple[str, Case, bool]:
    """Return the seed's name, the case and whether it is read deeply; a number always gives the same."""
    random = Random(f"{reader} {seed} {number}")
    name = random.choice(sorted(valid))
    return name, mutate(random, reader, valid[name], list(valid.values())), random.random() < _DEEP


def fuzz(reader: str, seconds: float, seed: int, findings: Path, most: int = 1 << 60) -> Tally:
    """Fuzz one reader for a time, or a number of inputs."""
    tally, begin = Tally(), time.monotonic()
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    number = 0
    valid = seeds(reader)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as work:
        while (left := seconds - (time.monotonic() - begin)) > 0 and number < most:
            shutil.rmtree(work)
            _SLOTS.pack_into(shared, 0, number, 0, 0, 0.0, 0, 0.0)  # it begins when everything is imported
            child = os.fork()
            if child == 0:
                _work(reader, seed, number, min(most, 1 << 60), left, Path(work), shared, findings)
            how = _wait(child, shared, reader)
            number, accepted, _, _, memory, slowest = _SLOTS.unpack_from(shared)
            tally.accepted += accepted
            tally.most_memory, tally.slowest = max(tally.most_memory, memory), max(tally.slowest, slowest)
            if how:
                _, case, _ = make_case(reader, seed, number, valid)
                save_finding(findings, reader, seed, number, how, how, case)
                number += 1
    tally.inputs, tally.seconds = number, time.monotonic() - begin
    tally.findings = Counter(json.loads(path.read_text())["where"] for path in findings.glob(f"{reader}-*/about.json"))
    return tally


def _wait(child: int, shared: mmap.mmap, reader: str) -> str:
    """Wait for the worker; return how it died if not by itself."""
    last, looks = 0.0, 0
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return "" if status == 0 else f"died by {signal.Signals(status & 127).name if status & 127 else status}"
        began = _SLOTS.unpack_from(shared)[3]
        # Looks are counted, not seconds: a virtual machine that was stopped for a while finds its clock put forward.
        last, looks = began, looks + 1 if began == last != 0 else 0
        if looks * _LOOK > _HANG:
            os.kill(child, signal.SIGUSR1)  # makes it say where it is
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang"
        time.sleep(_LOOK)


def _work(
    reader: str, seed: int, number: int, most: int, seconds: float, work: Path, shared: mmap.mmap, findings: Path
) -> None:
    """The worker: read cases until the time is over; never returns."""
    status, end = 1, time.monotonic() + seconds
    faulthandler.register(signal.SIGUSR1)
    try:
        watch, valid = Watch(work), seeds(reader)
        formats = watch.warm_up(reader)
        limit_memory()
        accepted = found = memory = 0
        slowest = 0.0
        while number < most and time.monotonic() < end:
            _SLOTS.pack_into(shared, 0, number, accepted, found, time.monotonic(), memory, slowest)
            name, case, deep = make_case(reader, seed, number, valid)
            try:
                outcome = watch.check(reader, case, formats[name], deep=deep, detect=deep or number % 8 == 0)
                accepted += outcome.accepted
                memory, slowest = max(memory, outcome.nbytes), max(slowest, outcome.seconds)
            except Broken as broken:
                found += 1
                save_finding(findings, reader, seed, number, broken.where, str(broken), case)
            number += 1
        _SLOTS.pack_into(shared, 0, number, accepted, found, time.monotonic(), memory, slowest)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def limit_memory() -> None:
    """Let an allocation that nobody asked for fail, instead of the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, used + _ADDRESS_SPACE))


def save_finding(findings: Path, reader: str, seed: int, number: int, where: str, what: str, case: Case) -> None:
    """Write an input that broke a promise; of several that broke it at one place, the shortest stays."""
    slug = "".join(c if c.isalnum() else "-" for c in where)[:80]
    folder = findings / f"{reader}-{slug}"
    if folder.exists() and sum(map(_length, _contents(folder))) <= sum(map(_length, case.values())):
        return  # the one that is there is the shorter one
    save_case(folder / "case", case)
    about = {"reader": reader, "seed": seed, "number": number, "where": where, "what": what[:2000]}
    (folder / "about.json").write_text(json.dumps(about, indent=2))


def _contents(folder: Path) -> list[Content]:
    """The contents of a saved finding."""
    from .cases import load_case

    return list(load_case(folder / "case").values())


def _length(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else 0


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=[*READERS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--inputs", type=int, default=1 << 60, help="at most, for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["plain", "atheris"], default="plain")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    if options.engine == "atheris":
        if options.reader == "all":
            parser.error("--engine atheris fuzzes one --reader")
        guided.run(options.reader, options.seconds, options.seed, options.findings.resolve())
    for reader in READERS if options.reader == "all" else [options.reader]:
        tally = fuzz(reader, options.seconds, options.seed, options.findings.resolve(), options.inputs)
        print(
            f"{reader:12} {tally.inputs:9,} inputs {tally.seconds:7.1f} s {tally.accepted:9,} accepted "
            f"slowest {tally.slowest:.3f} s most memory {tally.most_memory / 1e6:.0f} MB",
            flush=True,
        )
        for where, count in tally.findings.items():
            print(f"    {where} ({count})", flush=True)


if __name__ == "__main__":
    main()
