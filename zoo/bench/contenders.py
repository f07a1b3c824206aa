"""The contenders of a benchmark: zoo's engine and other libraries, each behind one method."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int4")


Taken = tuple[float, int]
"""time.perf_counter() after a token, and the id of the token."""


class Contender:
    """One way to run a model, in its own process.

    Attributes:
        package: Package that must be importable.
        distribution: Distribution that pip installs it from.
        format: Format of the files that it reads.
        dtypes: Dtype that its file is converted to, for each supported precision of zoo.
        batches: Whether it can continue several prompts at once.
        nbytes: Bytes of weights that are read per token; None if unknown.
        cached_nbytes: Bytes of keys and values that are read per token and earlier token; None if unknown.
    """

    package: ClassVar[str]
    distribution: ClassVar[str]
    format: ClassVar[str]
    dtypes: ClassVar[dict[str, str]]
    batches: ClassVar[bool] = True
    nbytes: int | None = None
    cached_nbytes: int | None = None

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        """Load a file."""

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        """Continue prompts (B, T) greedily by n tokens; return the time of each token and its id in the first row."""
        raise NotImplementedError


class Zoo(Contender):
    """zoo's engine."""

    package, distribution, format = "zoo", "gpt2-zoo", "zoo"
    dtypes: ClassVar = {name: name for name in PRECISIONS}

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import numpy as np

        from zoo.engine import Engine

        self._engine = Engine.open(path, threads=threads)
        self.nbytes, config = self._engine.nbytes, self._engine.config
        self.cached_nbytes = 2 * config.n_layers * config.width * np.dtype(self._engine.cache_dtype).itemsize

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        rows, cache = range(len(prompts)), self._engine.new_cache(len(prompts), len(prompts[0]) + n - 1)
        tokens = [int(logits.argmax()) for logits in self._engine.logits(prompts, cache, rows, [1] * len(prompts))]
        taken = [(time.perf_counter(), tokens[0])]
        for _ in range(n - 1):
            tokens = self._engine.step(tokens, cache).argmax(-1).tolist()
            taken.append((time.perf_counter(), tokens[0]))
        return taken


class Transformers(Contender):
    """generate of transformers, with its cache."""

    package, distribution, format = "transformers", "transformers", "huggingface"
    dtypes: ClassVar = {"float32": "float32", "bfloat16": "bfloat16"}

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import torch

        transformers = import_module("transformers")
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        dtype = getattr(torch, precision)
        self._model = transformers.GPT2LMHeadModel.from_pretrained(path, dtype=dtype).eval()

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        import torch

        ids, taken = torch.tensor(prompts), []

        def on_token(ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            """Return which rows should stop; generate calls it after each token."""
            taken.append((time.perf_counter(), int(ids[0, -1])))
            return torch.zeros(len(ids), dtype=torch.bool)

        with torch.no_grad():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=n,
                min_new_tokens=n,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=[on_token],
            )
        return taken


class CTranslate2(Contender):
    """The generator of CTranslate2."""

    package, distribution, format = "ctranslate2", "ctranslate2", "ctranslate2"
    dtypes: ClassVar = {"float32": "float32", "int8": "int8"}

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        ctranslate2 = import_module("ctranslate2")
        self._generator = ctranslate2.Generator(
            str(path), compute_type=precision, inter_threads=1, intra_threads=threads
        )
        self._words = json.loads((path / "vocabulary.json").read_text())

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        taken: list[Taken] = []

        def on_token(step: Any) -> bool:
            if step.batch_id == 0:
                taken.append((time.perf_counter(), step.token_id))
            return False

        words = [[self._words[i] for i in ids] for ids in prompts]
        self._generator.generate_batch(
            words, max_length=n, min_length=n, sampling_topk=1, include_prompt_in_result=False, callback=on_token
        )
        return taken


class LlamaCpp(Contender):
    """llama.cpp through llama-cpp-python, which compiles it for this machine."""

    package, distribution, format = "llama_cpp", "llama-cpp-python", "gguf"
    dtypes: ClassVar = {
        "float32": "float32",
        "bfloat16": "bfloat16",
        "float16": "float16",
        "int8": "q8_0",
        "int4": "q4_0",
    }
    batches = False

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        llama_cpp = import_module("llama_cpp")
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=0, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        self._llama.reset()  # otherwise it would reuse the cache of the same prompt
        tokens: Iterable[int] = self._llama.generate(prompts[0], temp=0.0, top_k=1, repeat_penalty=1.0)
        return [(time.perf_counter(), token) for _, token in zip(range(n), tokens, strict=False)]


class Book(Contender):
    """The loop of "Build a Large Language Model (From Scratch)" without a cache, with zoo's torch model."""

    package, distribution, format = "torch", "torch", "zoo"
    dtypes: ClassVar = {"float32": "float32"}

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import torch

        import zoo

        torch.set_num_threads(threads)
        self._model = zoo.load(path)

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        import torch

        ids, taken = torch.tensor(prompts), []
        for _ in range(n):
            with torch.no_grad():
                logits = self._model(ids[:, -self._model.config.context_length :])
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
            taken.append((time.perf_counter(), int(ids[0, -1])))
        return taken


CONTENDERS: dict[str, type[Contender]] = {
    "zoo": Zoo,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
    "book": Book,
}
PEERS = tuple(name for name in CONTENDERS if name != "zoo")
