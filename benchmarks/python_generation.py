"""Decode speed and memory of zoo.complete against `zoo generate`, on one file, run alternately.

    python benchmarks/python_generation.py [FILE]

Without FILE, 124M with random weights in float32 is made in a temporary directory. The speed is that after the first
token; the memory is what the Python process has allocated after loading and after generating (Linux only).
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS, TOKENS = 9, 100

PROGRAM = """
import json, sys, time
import zoo
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon"))
model = zoo.load(sys.argv[1])
zoo.complete(model, "Every effort", max_new_tokens=1, ignore_eos=True)  # what is imported on first use
loaded, times = anonymous(), []
for _ in zoo.generate(model, "Every effort moves you", max_new_tokens=int(sys.argv[2]), seed=1, ignore_eos=True):
    times.append(time.perf_counter())
print(json.dumps({"speed": (len(times) - 1) / (times[-1] - times[0]), "loaded": loaded, "after": anonymous()}))
"""


def of_python(path: Path) -> dict[str, float]:
    """Tokens per second, and MB allocated, of a Python program."""
    command = [sys.executable, "-c", PROGRAM, str(path), str(TOKENS)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def of_command(path: Path) -> float:
    """Tokens per second of the command."""
    options = ["-m", str(path), "-n", str(TOKENS), "--seed", "1", "--ignore-eos", "--stats", "Every effort moves you"]
    command = [sys.executable, "-m", "zoo", "generate", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(re.findall(r"then ([\d.]+) tokens/s", done.stderr)[0])


def main() -> None:
    """Measure, and print medians."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(directory) / "124M.safetensors"
        if len(sys.argv) == 1:
            import zoo

            zoo.save(zoo.create("gpt2-small", seed=0), path)
        rounds = [(of_command(path), of_python(path)) for _ in range(ROUNDS)]
        command, python = (statistics.median(each) for each in zip(*((c, p["speed"]) for c, p in rounds), strict=True))
        ratios = sorted(p["speed"] / c for c, p in rounds)
        print(f"medians: zoo generate {command:.1f} tokens/s, zoo.complete {python:.1f} tokens/s")
        print(f"ratio: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")
        memory = rounds[-1][1]
        print(
            f"allocated after loading {memory['loaded']} MB, after {TOKENS} tokens {memory['after']} MB; "
            f"the file has {path.stat().st_size >> 20} MB"
        )


if __name__ == "__main__":
    main()
