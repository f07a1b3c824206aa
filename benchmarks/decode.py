"""Decode with zoo's engine and with other libraries, in turns: tokens/s, ratios, share of the memory's bandwidth.

    python benchmarks/decode.py models/124M [--threads 2] [--rounds 5] [--tokens 24] [--json]

The source is any checkpoint; the peers get it through zoo's own converters, and all have the same threads and prompt.
In every round each contender decodes once and a probe reads memory, so that a busy moment falls on all alike. Printed:
the median of tokens/s; for peers the median of the rounds' ratios to zoo's engine of the same precision; for zoo the
bytes of weights that it reads in a second, beside what the probe reads. The probe is numpy's sum, which need not be the
fastest way to read. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from zoo.engine import Engine

PROMPT = list(range(1000, 1016))
Run = Callable[[int], None]


def zoo_engine(source: Path, threads: int, **precision: Any) -> tuple[Run, int]:
    """Decode greedily with zoo's engine; and the bytes of weights that it reads for a token."""
    engine = Engine.open(source, threads=threads, **precision)
    cache = engine.new_cache(1)

    def run(n: int) -> None:
        if cache.lengths[0]:
            cache.truncate(0)
        token = int(engine.prefill(PROMPT, cache).argmax())
        for _ in range(n - 1):
            token = int(engine.step([token], cache)[0].argmax())

    return run, engine.nbytes


def transformers_peer(directory: Path, threads: int, dtype: str) -> Run:
    """transformers' generate, greedy, with its cache."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor([PROMPT])

    def run(n: int) -> None:
        with torch.no_grad():
            model.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=50256)

    return run


def ctranslate2_peer(directory: Path, threads: int, kind: str) -> Run:
    """CTranslate2's generator, greedy."""
    import ctranslate2

    generator = ctranslate2.Generator(str(directory), compute_type=kind, inter_threads=1, intra_threads=threads)
    words = json.loads((directory / "vocabulary.json").read_text())
    prompt = [words[i] for i in PROMPT]

    def run(n: int) -> None:
        generator.generate_batch([prompt], max_length=n, min_length=n, sampling_topk=1, include_prompt_in_result=False)

    return run


def read_bandwidth(threads: int) -> Callable[[], float]:
    """A probe: bytes a second of summing 240 MB in as many threads, the best of three."""
    values = np.ones(60_000_000, np.float32)
    parts, pool = np.array_split(values, threads), ThreadPoolExecutor(threads)

    def probe() -> float:
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            seconds.append(time.perf_counter() - started)
        return values.nbytes / min(seconds)

    return probe


def contenders(source: Path, work: Path, threads: int) -> tuple[dict[str, Run], dict[str, int], dict[str, str]]:
    """What decodes; the bytes that zoo's own read; and which of zoo's each peer is compared with."""
    plain = work / "plain.safetensors"
    zoo.convert(source, plain)
    runs: dict[str, Run] = {}
    nbytes = {}
    for kind in ("float32", "bfloat16", "float16", "int8", "int4"):
        precision = {"quantize": kind} if kind.startswith("int") else {"dtype": kind}
        runs[f"zoo {kind}"], nbytes[f"zoo {kind}"] = zoo_engine(plain, threads, **precision)
    beside = {}
    if importlib.util.find_spec("transformers"):
        zoo.convert(plain, work / "hf", to="huggingface")
        for kind in ("float32", "bfloat16"):
            runs[f"transformers {kind}"] = transformers_peer(work / "hf", threads, kind)
            beside[f"transformers {kind}"] = f"zoo {kind}"
    if importlib.util.find_spec("ctranslate2"):
        for kind, dtype in (("float32", None), ("int8", "int8")):
            zoo.convert(plain, work / f"ct2-{kind}", to="ctranslate2", dtype=dtype)
            runs[f"ctranslate2 {kind}"] = ctranslate2_peer(work / f"ct2-{kind}", threads, kind)
            beside[f"ctranslate2 {kind}"] = f"zoo {kind}"
    return runs, nbytes, beside


def measure(source: Path, threads: int, rounds: int, n: int) -> dict[str, Any]:
    """Let all take turns, and sum up."""
    with tempfile.TemporaryDirectory() as directory:
        runs, nbytes, beside = contenders(source, Path(directory), threads)
        probe, speeds, bandwidths = read_bandwidth(threads), {name: [] for name in runs}, []
        for turn in range(rounds + 1):  # the first warms up
            bandwidth = probe()
            for name, run in runs.items():
                started = time.perf_counter()
                run(n)
                if turn:
                    speeds[name].append(n / (time.perf_counter() - started))
            if turn:
                bandwidths.append(bandwidth)
    bandwidth, rows = statistics.median(bandwidths), {}
    for name, found in speeds.items():
        rows[name] = {"tokens_per_s": statistics.median(found)}
        if name in nbytes:
            rows[name]["bytes_per_s"] = statistics.median(found) * nbytes[name]
        else:
            ratios = [ours / theirs for ours, theirs in zip(speeds[beside[name]], found, strict=True)]
            rows[name]["zoo_is_faster"] = statistics.median(ratios)
    return {"threads": threads, "rounds": rounds, "tokens": n, "bandwidth": bandwidth, "contenders": rows}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.source, options.threads, options.rounds, options.tokens)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['threads']} threads, {found['bandwidth'] / 1e9:.1f} GB/s read by the probe")
    for name, row in found["contenders"].items():
        share = f"{row['bytes_per_s'] / 1e9:.1f} GB/s of weights" if "bytes_per_s" in row else ""
        ratio = f"zoo is {row['zoo_is_faster']:.2f} times as fast" if "zoo_is_faster" in row else ""
        print(f"{name:22} {row['tokens_per_s']:7.1f} tokens/s  {share}{ratio}")


if __name__ == "__main__":
    main()
