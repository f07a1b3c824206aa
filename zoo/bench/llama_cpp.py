"""llama.cpp as a contender, through either of its Python packages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zoo.bench.base import Contender, Taken


class LlamaCpp(Contender):
    """llama.cpp, through llama-cpp-python where that is installed, else through cyllama."""

    packages = ("llama_cpp", "cyllama")
    distribution, format = "cyllama", "gguf"
    dtypes: ClassVar = {
        "float32": "float32",
        "bfloat16": "bfloat16",
        "float16": "float16",
        "int8": "q8_0",
        "int4": "q4_0",
    }
    batches = False

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        self._llama: LlamaCppPython | Cyllama
        self._llama = (LlamaCppPython if find_spec("llama_cpp") else Cyllama)(path, threads)

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        return [
            (time.perf_counter(), token) for _, token in zip(range(n), self._llama.tokens(prompts[0]), strict=False)
        ]


class LlamaCppPython:
    """The package llama-cpp-python, which compiles llama.cpp for this machine."""

    def __init__(self, path: Path, threads: int) -> None:
        llama_cpp = import_module("llama_cpp")
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=0, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def tokens(self, prompt: list[int]) -> Iterator[int]:
        """Yield greedy tokens without end."""
        self._llama.reset()  # otherwise it would reuse the cache of the same prompt
        tokens: Iterator[int] = self._llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        return tokens


class Cyllama:
    """The package cyllama, whose wheels have llama.cpp for all processors and choose at run time."""

    def __init__(self, path: Path, threads: int) -> None:
        self._api: Any = import_module("cyllama.llama.llama_cpp")
        with suppress(AttributeError):
            self._api.disable_logging()

        class Model(self._api.LlamaModel):  # type: ignore[name-defined, misc]
            # Its LlamaContext asks for this attribute, which is missing in cyllama 0.2.18.
            n_vocab = property(lambda model: model.get_vocab().n_vocab)

        self._model = Model(str(path), self._api.LlamaModelParams())
        options = self._api.LlamaContextParams()
        options.n_ctx, options.n_batch = self._model.n_ctx_train, 512
        options.n_threads = options.n_threads_batch = threads
        self._context = self._api.LlamaContext(self._model, options)

    def tokens(self, prompt: list[int]) -> Iterator[int]:
        """Yield greedy tokens without end."""
        self._context.kv_cache_clear()
        ids, position = prompt, 0
        while True:
            for start in range(0, len(ids), 512):
                part = ids[start : start + 512]
                batch = self._api.LlamaBatch(n_tokens=len(part), embd=0, n_seq_max=1)
                batch.set_batch(part, position, logits_all=False)
                self._context.decode(batch)
                position += len(part)
            ids = [int(np.asarray(self._context.get_logits_ith(-1)).argmax())]
            yield ids[0]
