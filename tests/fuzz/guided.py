"""Fuzz one reader with atheris: libFuzzer follows the branches of zoo's code and keeps what reaches new ones.

It makes mutations of its own and those of mutate.py, and judges by watch.py as the plain driver does, but in one
process: an input that kills it is written by libFuzzer to the findings. See run.py for how to start it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random


def run(reader: str, seconds: float, seed: int, findings: Path) -> None:
    """Fuzz until the time is over; libFuzzer then ends the process."""
    import atheris

    with atheris.instrument_imports(include=["zoo"]):
        import zoo.cli.main  # noqa: F401
        from zoo.converters import keras_hub, llmc, megatron, mingpt, peft, sharded, tf_h5  # noqa: F401

        from .cases import Case, pack, seeds, unpack
        from .mutate import mutate
        from .run import save_finding
        from .watch import Broken, Watch

    work = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    watch, valid = Watch(Path(work) / "watch"), seeds(reader)
    formats = watch.warm_up(reader)
    corpus = Path(work) / "corpus"
    corpus.mkdir()
    for name, case in valid.items():
        (corpus / name).write_bytes(pack(case))
    known = {name for case in valid.values() for name in case}
    done = 0

    def files(data: bytes) -> Case:
        # libFuzzer changes names too, and a name may lead anywhere.
        return {name: content for name, content in unpack(data).items() if name in known}

    def check(data: bytes) -> None:
        nonlocal done
        case, done = files(data), done + 1
        alike = [name for name in formats if set(valid[name]) == set(case)] or list(formats)
        try:
            if case:
                watch.check(reader, case, formats[alike[len(data) % len(alike)]], deep=done % 100 == 0)
        except Broken as broken:
            save_finding(findings, reader, seed, done, broken.where, str(broken), case)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        case = files(data)
        if not case or random.random() < 0.3:
            return atheris.Mutate(data, max_size)
        return pack(mutate(random, reader, case, list(valid.values())))[:max_size]

    limits = [
        "-max_len=200000",
        "-timeout=20",
        "-rss_limit_mb=4096",
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
    ]
    arguments = [*limits, f"-artifact_prefix={findings}/{reader}-", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=change)
    atheris.Fuzz()
