"""Runtimes that run zoo's own ONNX export, with its KV cache as inputs and outputs."""

from __future__ import annotations

import time
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zoo.bench.base import Contender, Taken

Arrays = dict[str, NDArray[Any]]


class OnnxContender(Contender):
    """Greedy decoding with a graph from input_ids and past_key_values.* to logits and present.*.

    Attributes:
        shapes: for each input of the cache, (heads, head size).
    """

    format = "onnx"
    dtypes: ClassVar = {"float32": "float32"}
    shapes: dict[str, tuple[int, int]]

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs by name."""

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        ids, taken = np.array(prompts, np.int64), []
        past: Arrays = {name: np.zeros((len(ids), h, 0, d), np.float32) for name, (h, d) in self.shapes.items()}
        for _ in range(n):
            outputs = self.run({"input_ids": ids, **past})
            ids = outputs.pop("logits")[:, -1].argmax(-1)[:, None]
            past = {name.replace("present", "past_key_values"): values for name, values in outputs.items()}
            taken.append((time.perf_counter(), int(ids[0, 0])))
        return taken


class OnnxRuntime(OnnxContender):
    """ONNX Runtime on the CPU."""

    packages, distribution = ("onnxruntime",), "onnxruntime"

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = runtime.InferenceSession(str(path / "model.onnx"), options, ["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        inputs = self._session.get_inputs()
        self.shapes = {each.name: (each.shape[1], each.shape[3]) for each in inputs if each.name != "input_ids"}

    def run(self, inputs: Arrays) -> Arrays:
        return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))


class OpenVINO(OnnxContender):
    """OpenVINO on the CPU, computing in float32."""

    packages, distribution = ("openvino",), "openvino"

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        openvino = import_module("openvino")
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(str(path / "model.onnx"), "CPU", options)
        self._request = model.create_infer_request()
        self._outputs = [
            next(name for name in output.names if name == "logits" or name.startswith("present."))
            for output in model.outputs
        ]
        self.shapes = {
            each.any_name: (each.partial_shape[1].get_length(), each.partial_shape[3].get_length())
            for each in model.inputs
            if each.any_name != "input_ids"
        }

    def run(self, inputs: Arrays) -> Arrays:
        found = self._request.infer(inputs)
        return {name: found[i].copy() for i, name in enumerate(self._outputs)}
