"""Compare training steps of GPT-2 124M with the book's, a nanoGPT-style one and transformers' Trainer."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

import zoo
from zoo.core.memory import PeakMemory

NAMES = ("zoo", "book", "nanogpt", "transformers")


def work(name: str, settings: dict[str, Any]) -> None:
    """Run a contender's process: one step per line on stdin, answered with its seconds and the peak memory so far."""
    import train_peers

    out = os.fdopen(os.dup(1), "w", buffering=1)  # other output goes to stderr
    os.dup2(2, 1)
    given = train_peers.Settings(**settings)
    started = 0.0
    with PeakMemory() as memory:

        def on_step(loss: float | None) -> None:
            nonlocal started
            if loss is None:
                if not sys.stdin.readline():
                    os._exit(0)
                started = time.perf_counter()
            else:
                out.write(json.dumps({"seconds": time.perf_counter() - started, "memory": memory.peak}) + "\n")

        if name == "transformers":
            train_peers.transformers(given, on_step)
            return
        steps = train_peers.CONTENDERS[name](given)
        while True:
            on_step(None)
            on_step(next(steps))


class Contender:
    """A process that runs one step per request."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--worker", name, json.dumps(settings)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.memory = 0

    def step(self) -> None:
        """Run one step and store its measurements."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early")
        answer = json.loads(line)
        self.seconds.append(answer["seconds"])
        self.memory = answer["memory"] or 0


def matmul_peak(dtype: torch.dtype, size: int = 3072) -> float:
    """Return the most floating-point operations per second of several large matrix products."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_a_step(context: int, batch: int) -> float:
    """Return the operations of the forward and backward pass over a batch, without recomputation."""
    config = zoo.get_config("gpt2-small").replace(context_length=context)
    n_matrices = config.n_parameters - context * config.width
    return batch * context * (6 * n_matrices + 12 * config.n_layers * config.width * context)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast for all but book-float32")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.worker:
        work(options.worker[0], json.loads(options.worker[1]))
        return
    settings = {key: getattr(options, key) for key in ("context", "batch", "dropout", "bf16")}
    contenders = [Contender(name, settings) for name in options.contenders]
    if options.bf16:  # the book itself trains in float32
        contenders.append(Contender("book", settings | {"bf16": False}))
        contenders[-1].name = "book, float32"
    print_results(measure(contenders, options.rounds, settings), as_json=options.json)


def measure(contenders: list[Contender], rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run the contenders alternately and summarise."""
    for contender in contenders:  # two warm-up steps, which touch the memory and create the optimizer state
        contender.step()
        contender.step()
        contender.seconds.clear()
    peaks = []
    for i in range(rounds):
        # The order rotates, because the contender after the probe finds its threads still spinning.
        peaks.append(matmul_peak(torch.bfloat16 if settings["bf16"] else torch.float32))
        for contender in contenders[i % len(contenders) :] + contenders[: i % len(contenders)]:
            contender.step()
    peak, needed = max(peaks), flops_a_step(settings["context"], settings["batch"])
    rows = {}
    for contender in contenders:
        contender.process.kill()
        ratios = [a / b for a, b in zip(contender.seconds, contenders[0].seconds, strict=True)]
        rows[contender.name] = {
            "seconds": statistics.median(contender.seconds),
            "tokens_per_s": settings["batch"] * settings["context"] / statistics.median(contender.seconds),
            "ratio": statistics.median(ratios),
            "memory": contender.memory,
            "of_peak": needed / statistics.median(contender.seconds) / peak,
        }
    return {"settings": settings, "threads": torch.get_num_threads(), "matmul_flops": peak, "contenders": rows}


def print_results(results: dict[str, Any], *, as_json: bool) -> None:
    """Print a table, or JSON."""
    if as_json:
        print(json.dumps(results, indent=2))
        return
    print(f"{results['settings']}, {results['threads']} threads, peak {results['matmul_flops'] / 1e9:.0f} Gflop/s")
    print(f"{'':14} {'s/step':>8} {'tokens/s':>9} {'ratio':>6} {'memory':>9} {'of peak':>8}")
    for name, row in results["contenders"].items():
        print(
            f"{name:14} {row['seconds']:8.3f} {row['tokens_per_s']:9.0f} {row['ratio']:6.2f} "
            f"{row['memory'] / 1e9:6.2f} GB {row['of_peak']:8.0%}"
        )


if __name__ == "__main__":
    main()
