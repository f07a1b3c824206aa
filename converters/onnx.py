"""ONNX with a key-value cache: a directory with model.onnx, its weights in model.onnx.data, config and tokenizer.

https://github.com/onnx/onnx: docs/IR.md and docs/ExternalData.md. The weights are in a file of their own, since a
protocol buffer is limited to 2 GB. Inputs, outputs and files have the names that Hugging Face's optimum gives them:
input_ids (B, T) and past_key_values.N.key and .value (B, H, P, D) give logits (B, T, V) and present.N.key and .value
(B, H, P + T, D); P is 0 for the first call. Operators are those of opset 20. A float16 model is computed in float16,
any other in float32: bfloat16 weights are stored as bfloat16 and cast when the graph runs.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import zoo
from zoo.converters.huggingface import HuggingFace
from zoo.converters.shared.hf_directory import write_config
from zoo.converters.shared.onnx_graph import OPSET, Graph
from zoo.core.stream import write_at
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import MissingPackage
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.models.gpt2.config import GPTConfig

_MODEL, _DATA = "model.onnx", "model.onnx.data"
_IR_VERSION = 9  # the one of opset 20 (docs/Versioning.md)
_START = b"\x08"  # the tag of ir_version, which every exporter writes first
_NEWEST = 64  # ir_version is 14 in 2026
_ALIGNMENT = 4096  # of tensors in the data, so that runtimes can map them (docs/ExternalData.md)


class Onnx(Format):
    """A directory that onnxruntime runs."""

    name = "onnx"
    summary = f"ONNX graph with key-value cache (opset {OPSET}), weights, config and tokenizer in a directory"
    is_directory = True
    reads = False
    table = HuggingFace.table
    config_map = ConfigMap(fields=HuggingFace.config_map.fields, constants=HuggingFace.config_map.constants)

    def sniff(self, path: Path) -> bool:
        """Return whether it is an .onnx file, or a directory with a model.onnx."""
        file = path / _MODEL if path.is_dir() else path
        if file.suffix != ".onnx" or not file.is_file():
            return False
        with file.open("rb") as opened:
            start = opened.read(2)
        return len(start) == 2 and start.startswith(_START) and start[1] < _NEWEST

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the directory: the weights first, so that the graph can record where they came from."""
        onnx, config = _onnx(), checkpoint.config
        offsets = _offsets(checkpoint.tensors)
        graph = _graph(onnx, config, checkpoint.tensors, offsets)
        path.mkdir()
        write_config(path, checkpoint, self.config_map)
        data = path / _DATA
        data.touch()
        os.truncate(data, max(offsets[name] + tensor.nbytes for name, tensor in checkpoint.tensors.items()))
        placed = [(offsets[name], tensor) for name, tensor in checkpoint.tensors.items()]
        write_at(data, placed, options.on_bytes)
        version = onnx.helper.make_opsetid("", OPSET)
        about = {"producer_name": "zoo", "producer_version": zoo.__version__, "ir_version": _IR_VERSION}
        model = onnx.helper.make_model(graph, opset_imports=[version], **about)
        records = {"zoo.config": config.to_dict(), "zoo.provenance": options.provenance()}
        texts = {key: json.dumps(value, sort_keys=True) for key, value in records.items()}
        onnx.helper.set_model_props(model, texts)
        (path / _MODEL).write_bytes(model.SerializeToString(deterministic=True))


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError as error:
        raise MissingPackage("this format needs the package onnx; run `pip install 'gpt2-zoo[onnx]'`") from error


def _offsets(tensors: Tensors) -> dict[str, int]:
    """Return the place of each tensor in the data."""
    offsets, end = {}, 0
    for name, tensor in tensors.items():
        offsets[name] = end + -end % _ALIGNMENT
        end = offsets[name] + tensor.nbytes
    return offsets


def _graph(onnx: Any, config: GPTConfig, tensors: Tensors, offsets: dict[str, int]) -> Any:
    """Return the complete graph, whose initializers say where the weights lie."""
    built = Graph(onnx, config, tensors)
    small = [onnx.numpy_helper.from_array(value, name) for name, value in built.constants.items()]
    large = [_external(onnx, name, tensor, offsets[name]) for name, tensor in tensors.items()]
    return onnx.helper.make_graph(built.nodes, "gpt2", built.inputs, built.outputs, [*small, *large])


def _external(onnx: Any, name: str, tensor: LazyTensor, offset: int) -> Any:
    """Return an initializer whose values lie in the data."""
    data_type = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    proto = onnx.TensorProto(name=name, dims=tensor.shape, data_type=data_type)
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", _DATA), ("offset", offset), ("length", tensor.nbytes)):
        proto.external_data.add(key=key, value=str(value))
    return proto
