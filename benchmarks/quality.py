"""What rounding the weights costs: the loss of a trained model on text it never saw, and the error of its logits.

    python benchmarks/quality.py held-out.txt [--model stories] [--windows 40] [--json]

Every precision of zoo's engine, also with 8-bit activations (of all tokens, also the last of a prompt); the weights of
GGUF's Q8_0 and Q4_0 as the float32 values that they stand for; and, where llama-cpp-python is installed, llama.cpp
itself with these files. The text is cut into windows of 256 tokens, evenly spread; each token but the first of
a window is predicted from those before it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zoo
from zoo.engine import Engine
from zoo.text.tokenizer import Tokenizer

T = 256
Logits = NDArray[np.float32]
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "int8, int8 prefill": {"quantize": "int8", "int8_prefill": True},
    "int4, int8 prefill": {"quantize": "int4", "int8_prefill": True},
}


def windows(text: str, tokenizer: Tokenizer, n: int) -> NDArray[np.int64]:
    """Return n windows of tokens, (n, T)."""
    ids = np.array(tokenizer.encode(text))
    starts = np.linspace(0, len(ids) - T, n).astype(int)
    return np.stack([ids[start : start + T] for start in starts])


def of_engine(engine: Engine) -> Callable[[NDArray[np.int64]], Logits]:
    """Return a function for the logits after each token of a window, (T, V), with zoo's engine."""
    cache = engine.new_cache()

    def logits(ids: NDArray[np.int64]) -> Logits:
        if cache.lengths[0]:
            cache.truncate(0)
        rounding = engine._handle.rounding if engine.int8_prefill else 0
        return engine._read([ids], np.array([0]), cache, [len(ids)], rounding)

    return logits


def of_llama_cpp(path: Path) -> Callable[[NDArray[np.int64]], Logits]:
    """Return the same function with llama.cpp."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), n_ctx=T, n_batch=T, n_threads=2, logits_all=True, verbose=False)

    def logits(ids: NDArray[np.int64]) -> Logits:
        llama.reset()
        llama.eval(ids.tolist())
        return np.array(llama.scores[:T], np.float32)

    return logits


def contenders(model: str, work: Path) -> Iterator[tuple[str, Callable[[NDArray[np.int64]], Logits]]]:
    """Yield all contenders, float32 first, one at a time."""
    for name, precision in PRECISIONS.items():
        engine = zoo.open_engine(model, threads=2, **precision)
        if engine.int8_prefill or not precision.get("int8_prefill"):
            yield f"zoo {name}", of_engine(engine)
    for encoding in ("q8_0", "q4_0"):
        path = work / f"{encoding}.gguf"
        zoo.convert(model, path, dtype=encoding)
        yield f"weights of {encoding}", of_engine(zoo.open_engine(path, threads=2, dtype="float32"))
        if importlib.util.find_spec("llama_cpp"):
            yield f"llama.cpp {encoding}", of_llama_cpp(path)


def losses(logits: Logits, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss of each token except the first, in nats: (T - 1,)."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(-1, keepdims=True)
    return np.log(np.exp(rows).sum(-1)) - rows[np.arange(T - 1), ids[1:]]


def measure(model: str, text: str, n: int) -> dict[str, Any]:
    """Measure the losses and the differences from float32."""
    reference: list[Logits] = []
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        batch = None
        for name, compute in contenders(model, Path(work)):
            if batch is None:
                batch = windows(text, Tokenizer(zoo.open_engine(model, threads=1).vocabulary), n)
            computed = [compute(ids) for ids in batch]
            reference = reference or computed
            errors = [np.abs(a - b) for a, b in zip(computed, reference, strict=True)]
            found[name] = {
                "loss": float(np.mean([losses(a, ids) for a, ids in zip(computed, batch, strict=True)])),
                "max_error": float(max(e.max() for e in errors)),
                "rms_error": float(np.sqrt(np.mean([np.square(e, dtype=np.float64).mean() for e in errors]))),
                "same_best_token": float(
                    np.mean([(a.argmax(-1) == b.argmax(-1)).mean() for a, b in zip(computed, reference, strict=True)])
                ),
            }
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.model, options.text.read_text(encoding="utf-8"), options.windows)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    first = found["zoo float32"]["loss"]
    for name, row in found.items():
        print(
            f"{name:22} loss {row['loss']:.4f} ({row['loss'] - first:+.4f})  logits: max error {row['max_error']:.3f}, "
            f"rms {row['rms_error']:.4f}; same best token {row['same_best_token']:.1%}"
        )


if __name__ == "__main__":
    main()
