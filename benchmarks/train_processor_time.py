"""Compare processor time per training step of GPT-2 124M, one thread, alternated: ratios that hold on a busy machine.

    python benchmarks/train_processor_time.py zoo book nanogpt zoo-bf16

With ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 it measures a processor without
AVX-512. Each step is 1 x 256 tokens with dropout 0.1; `-bf16` after a name asks for bfloat16 autocast.
"""

import statistics
import sys
import time

import torch
import train_peers


def main() -> None:
    """Run from the command line."""
    torch.set_num_threads(1)
    steps = {}
    for name in sys.argv[1:]:
        settings = train_peers.Settings(context=256, batch=1, dropout=0.1, bf16=name.endswith("-bf16"))
        steps[name] = train_peers.CONTENDERS[name.removesuffix("-bf16")](settings)
        next(steps[name])  # makes the optimizer's state
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):
        for name, contender in steps.items():
            start = time.process_time()
            next(contender)
            seconds[name].append(time.process_time() - start)
    print(torch.backends.cpu.get_cpu_capability())
    for name, each in seconds.items():
        print(f"{name:14} {statistics.median(each):6.2f} s  {[round(x, 2) for x in each]}")


if __name__ == "__main__":
    main()
