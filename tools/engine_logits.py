"""Compute logits of `stories` with the engine in every precision, or compare two files of them.

python tools/engine_logits.py OUT.npz        after a prompt, and after a token more
python tools/engine_logits.py A.npz B.npz    exits with 1 if they differ by more than rounding
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "int8, int8 prefill": {"quantize": "int8", "int8_prefill": True},
    "int4, int8 prefill": {"quantize": "int4", "int8_prefill": True},
}


def compute(out: Path) -> None:
    """Write the logits of each precision, (2, V)."""
    import zoo

    ids = np.random.default_rng(0).integers(0, 20000, 150)
    found = {}
    for name, options in PRECISIONS.items():
        with zoo.open_engine("stories", threads=2, **options) as engine:
            cache = engine.new_cache()
            found[name] = np.stack([engine.prefill(ids, cache), engine.step([5], cache)[0]])
    np.savez(out, **found)


def compare(first: Path, second: Path) -> bool:
    """Print the largest differences; return whether all are credible as rounding."""
    ours, theirs = np.load(first), np.load(second)
    credible = True
    for name in PRECISIONS:
        error = float(np.abs(ours[name] - theirs[name]).max())
        may_round = "prefill" in name or name == "bfloat16"  # activations of prompts, on some processors only
        bound = 0.2 if may_round else 1e-4 if name == "float32" else 0.01
        credible &= error <= bound
        print(f"  {name}: logits differ by {error:.2g} at most ({'ok' if error <= bound else 'WRONG'})")
    return credible


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    if len(paths) == 1:
        compute(paths[0])
    else:
        sys.exit(not compare(*paths))
