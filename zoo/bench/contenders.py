"""The libraries that `zoo bench` compares: zoo's engine and its peers."""

from __future__ import annotations

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from zoo.bench.base import Contender, Taken
from zoo.bench.exports import OnnxRuntime, OpenVINO
from zoo.bench.llama_cpp import LlamaCpp

PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int4")


class Zoo(Contender):
    """zoo's engine."""

    packages, distribution, format = ("zoo",), "gpt2-zoo", "zoo"
    dtypes: ClassVar = {name: name for name in PRECISIONS}
    int8_prefill: ClassVar = False

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import numpy as np

        from zoo.engine import Engine

        self._engine = Engine.open(path, threads=threads, int8_prefill=self.int8_prefill)
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


class ZooInt8Prefill(Zoo):
    """zoo's engine with prompts in 8-bit activations."""

    dtypes: ClassVar = {"int8": "int8", "int4": "int4"}
    int8_prefill = True


class Transformers(Contender):
    """generate of transformers, with its cache."""

    packages, distribution, format = ("transformers",), "transformers", "huggingface"
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

    packages, distribution, format = ("ctranslate2",), "ctranslate2", "ctranslate2"
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


class Book(Contender):
    """The loop of "Build a Large Language Model (From Scratch)" without a cache, with zoo's torch model."""

    packages, distribution, format = ("torch",), "torch", "zoo"
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
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVINO,
    "book": Book,
    "zoo-int8-prefill": ZooInt8Prefill,
}
PEERS = tuple(name for name in CONTENDERS if name != "zoo")
