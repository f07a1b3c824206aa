"""Compare generation and training steps on a GPU with the CPU: do they agree, and how fast are they?

    python benchmarks/gpu.py [--device cuda] [--tiny] [--json]

124M with random weights. First the results: logits of the device in float32 and bfloat16 against the CPU in float32,
and the losses of training steps. Then the speeds: tokens/s of greedy decoding in batches of 1 and 16, with the share of
the device's bandwidth that reading the weights once a step takes (a copy of 1 GB is the limit), and seconds of a
training step with and without torch.compile, with the share of the device's peak (a large product in bfloat16). It
takes a few minutes; `--device cpu --tiny` tries the script on any machine in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import zoo
from zoo.train.step.distributed import World
from zoo.train.step.loss import LanguageModelLoss
from zoo.train.step.optimization import make_optimizer, train_step

TINY = zoo.GPTConfig(vocab_size=997, context_length=64, width=48, n_heads=4, n_layers=2)
Row = dict[str, Any]


def seconds(device: torch.device, work: Callable[[], object], times: int) -> float:
    """Return the shortest time of some runs, after one warm-up, with everything on the device finished."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found = []
    for _ in range(times + 1):
        finish()
        start = time.perf_counter()
        work()
        finish()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def limits(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """Return the bandwidth in bytes/s and the peak of bfloat16 products in operations/s."""
    source = torch.ones((1 << 22) if tiny else (1 << 28), device=device)
    target, n = torch.empty_like(source), 256 if tiny else 8192
    copying = seconds(device, lambda: target.copy_(source), 10)
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    return {"bandwidth": 2 * source.nbytes / copying, "peak": 2 * n**3 / seconds(device, lambda: a @ a, 10)}


def agreement(config: zoo.GPTConfig, device: torch.device) -> list[Row]:
    """Return how far logits after each token of a window are from those of the CPU in float32."""
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, config.vocab_size, (2, config.context_length)))
    model = zoo.create(config, seed=0).eval()
    rows = []
    with torch.inference_mode():
        expected = model(ids)
        for dtype in (torch.float32, torch.bfloat16):
            found = model.to(device, dtype)(ids.to(device)).float().cpu()
            errors = (found - expected).abs() / expected.std()
            same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
            rows.append(
                {
                    "dtype": str(dtype),
                    "max_error": float(errors.max()),
                    "mean_error": float(errors.mean()),
                    "same_best": float(same),
                }
            )
    return rows


def decode(config: zoo.GPTConfig, device: torch.device, dtype: torch.dtype, batch: int, n: int) -> float:
    """Return decoding steps per second after the first tokens, greedy, each step a token for each of the batch."""
    model = zoo.create(config, seed=0).eval().to(device, dtype)
    prompts = np.random.default_rng(2).integers(0, config.vocab_size, (batch, 16)).tolist()
    found = []
    for _ in range(3):  # the first is a warm-up
        times = [
            time.perf_counter()
            for _ in zoo.generate_batch(model, prompts, temperature=0, max_new_tokens=n, ignore_eos=True)
        ]
        found.append((n - 1) / (times[-1] - times[batch - 1]))
    return statistics.median(found[1:])


def generation(config: zoo.GPTConfig, device: torch.device, bandwidth: float, *, n: int) -> list[Row]:
    """Return the speeds of decoding on the device and on the CPU, whose engine takes float32 and bfloat16 too."""
    rows = []
    for place in dict.fromkeys((device, torch.device("cpu"))):
        for dtype in (torch.float32, torch.bfloat16):
            for batch in (1, 16):
                steps = decode(config, place, dtype, batch, n if place == device else min(n, 24))
                read = (config.n_parameters - config.context_length * config.width) * dtype.itemsize
                share = steps * read / bandwidth if place == device else None
                rows.append(
                    {
                        "device": str(place),
                        "dtype": str(dtype),
                        "batch": batch,
                        "tokens_per_s": steps * batch,
                        "of_bandwidth": share,
                    }
                )
    return rows


def step_operations(config: zoo.GPTConfig, batch: int) -> float:
    """Return the operations of the forward and backward pass over a batch of full windows, without recomputation."""
    context = config.context_length
    n_matrices = config.n_parameters - context * config.width
    return batch * context * (6 * n_matrices + 12 * config.n_layers * config.width * context)


def train(config: zoo.GPTConfig, device: torch.device, dtype: str, batch: int, *, compile: bool, steps: int) -> Row:
    """Return the losses of some steps on the same windows, and the median seconds of all but the first two."""
    model = zoo.create(config.replace(dropout=0.0), seed=0).to(device).train()
    here, loss = World(device=device), LanguageModelLoss(model)
    module, optimizer = here.wrap(loss, compile=compile), make_optimizer(loss, lr=1e-4)
    generator = torch.Generator().manual_seed(3)
    windows = torch.randint(config.vocab_size, (batch, config.context_length + 1), generator=generator).to(device)
    losses, times = [], []
    for step in range(steps):
        start = time.perf_counter()
        result = train_step(
            module, optimizer, [(windows[:, :-1], windows[:, 1:])], step=step, lr=1e-4, dtype=dtype, here=here
        )
        losses.append(result.loss)  # a number on the host, so the step is finished
        times.append(time.perf_counter() - start)
    return {
        "device": str(device),
        "dtype": dtype,
        "compile": compile,
        "batch": batch,
        "losses": losses,
        "seconds": statistics.median(times[2:]),
    }


def training(config: zoo.GPTConfig, device: torch.device, peak: float, *, batch: int, steps: int) -> list[Row]:
    """Return training steps on the device, and a few of the same windows on the CPU in float32."""
    rows = [
        train(config, device, "float32", batch, compile=False, steps=steps),
        train(config, device, "bfloat16", batch, compile=False, steps=steps),
        train(config, device, "bfloat16", batch, compile=True, steps=steps),
    ]
    for row in rows:
        row["of_peak"] = step_operations(config, batch) / row["seconds"] / peak
        row["tokens_per_s"] = batch * config.context_length / row["seconds"]
    expected = train(config, torch.device("cpu"), "float32", batch, compile=False, steps=3)["losses"]
    for row in rows:
        row["loss_error"] = max(abs(a - b) for a, b in zip(expected, row["losses"], strict=False))
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is float32
    config = TINY if options.tiny else zoo.get_config("gpt2-small")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "limits": limits(device, tiny=options.tiny),
        "agreement": agreement(config, device),
    }
    found["generation"] = generation(config, device, found["limits"]["bandwidth"], n=12 if options.tiny else 256)
    batch, steps = (2, 4) if options.tiny else (8, 12)
    found["training"] = training(config, device, found["limits"]["peak"], batch=batch, steps=steps)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, rows in found.items():
        print(f"\n{name}" if isinstance(rows, list) else f"{name}: {rows}")
        for row in rows if isinstance(rows, list) else ():
            print(
                "  "
                + ", ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "losses"
                )
            )


if __name__ == "__main__":
    main()
