"""The computation of a GPT-2 as an ONNX graph of standard operators.

Letters in shapes: B batch, T new tokens, P cached ones (0 at first), H heads, D head size, C width, V vocabulary rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zoo.core.tensors import DTYPES, Array, Tensors
from zoo.models.gpt2.config import GPTConfig

OPSET = 20
"""The first with Gelu; onnxruntime has it since 1.17."""

_APPROXIMATE = {"gelu_tanh": "tanh", "gelu": "none"}  # of Gelu


class Graph:
    """The nodes of a model, in the order in which they are computed.

    Attributes:
        nodes: made so far.
        constants: small tensors, by name.
        inputs: of the whole graph.
        outputs: likewise.
        dtype: of the computation; weights of another dtype are cast.
    """

    def __init__(self, onnx: Any, config: GPTConfig, weights: Tensors) -> None:
        """Build the graph.

        Args:
            onnx: the package.
            config: of the model.
            weights: by Hugging Face's names and in their layout; only names, shapes and dtypes count.
        """
        self._helper, self._config, self._weights = onnx.helper, config, weights
        dtypes = {tensor.dtype for tensor in weights.values()}
        # onnxruntime does not compute in bfloat16 on CPUs.
        self.dtype = DTYPES["float16"] if dtypes == {DTYPES["float16"]} else DTYPES["float32"]
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._build()

    def _build(self) -> None:
        config = self._config
        self._declare(self.inputs, "input_ids", np.dtype(np.int64), ("batch_size", "sequence_length"))
        for i in range(config.n_layers):
            for part in ("key", "value"):
                cached = ("batch_size", config.n_heads, "past_sequence_length", config.head_size)
                self._declare(self.inputs, f"past_key_values.{i}.{part}", self.dtype, cached)
        logits = ("batch_size", "sequence_length", config.vocab_rows)
        self._declare(self.outputs, "logits", self.dtype, logits)
        for name, tensor in self._weights.items():
            if tensor.dtype != self.dtype:
                self._node("Cast", [name], [self._weight(name)], to=self._type(self.dtype))
        positions, visible = self._positions()
        tokens = self._add("Gather", self._weight("wte.weight"), "input_ids")  # (B, T, C)
        x = self._add("Add", tokens, self._add("Gather", self._weight("wpe.weight"), positions))
        for i in range(config.n_layers):
            normed = self._norm(x, f"h.{i}.ln_1")
            x = self._add("Add", x, self._attention(normed, visible, i))
            normed = self._norm(x, f"h.{i}.ln_2")
            inner = self._linear(normed, f"h.{i}.mlp.c_fc")
            inner = self._add("Gelu", inner, approximate=_APPROXIMATE[config.activation])
            x = self._add("Add", x, self._linear(inner, f"h.{i}.mlp.c_proj"))
        self._head(self._norm(x, "ln_f"))

    def _positions(self) -> tuple[str, str]:
        """The positions of the new tokens, (T,), and which of all tokens each of them sees, (T, P + T)."""
        past = self._add("Squeeze", self._add("Shape", "past_key_values.0.key", start=2, end=3))
        new = self._add("Squeeze", self._add("Shape", "input_ids", start=1, end=2))
        zero, one = self._constant("zero", np.int64(0)), self._constant("one", np.int64(1))
        length = self._add("Add", past, new)
        positions = self._add("Range", past, length, one)
        rows = self._add("Unsqueeze", positions, self._constant("axis_1", np.array([1])))
        return positions, self._add("LessOrEqual", self._add("Range", zero, length, one), rows)

    def _attention(self, x: str, visible: str, i: int) -> str:
        """The attention of a block: (B, T, C) -> (B, T, C)."""
        config = self._config
        parts = [f"h.{i}.attn.{part}" for part in ("query", "key", "value")]
        self._node("Split", [self._linear(x, f"h.{i}.attn.c_attn")], parts, axis=-1, num_outputs=3)
        q, k, v = (self._heads(part) for part in parts)
        k, v = (self._cached(new, i, part) for new, part in ((k, "key"), (v, "value")))  # (B, H, P + T, D)
        scale = self._constant("scale", np.array(1 / math.sqrt(config.head_size), self.dtype))
        scores = self._add("MatMul", self._add("Mul", q, scale), self._add("Transpose", k, perm=[0, 1, 3, 2]))
        hidden = self._constant("hidden", np.array(-np.inf, self.dtype))
        weights = self._add("Softmax", self._add("Where", visible, scores, hidden), axis=-1)  # (B, H, T, P + T)
        y = self._add("Transpose", self._add("MatMul", weights, v), perm=[0, 2, 1, 3])  # (B, T, H, D)
        joined = self._add("Reshape", y, self._constant("joined", np.array([0, 0, config.width])))
        return self._linear(joined, f"h.{i}.attn.c_proj")

    def _heads(self, x: str) -> str:
        """Split the last axis into heads: (B, T, C) -> (B, H, T, D)."""
        split = self._constant("split", np.array([0, 0, self._config.n_heads, self._config.head_size]))
        return self._add("Transpose", self._add("Reshape", x, split), perm=[0, 2, 1, 3])

    def _cached(self, new: str, i: int, part: str) -> str:
        """Append new keys or values to those of the cache; the result is an output too."""
        present = f"present.{i}.{part}"
        shape = ("batch_size", self._config.n_heads, "total_sequence_length", self._config.head_size)
        self._declare(self.outputs, present, self.dtype, shape)
        return self._node("Concat", [f"past_key_values.{i}.{part}", new], [present], axis=2)

    def _head(self, x: str) -> None:
        """The logits. Gemm reads the embedding as it lies, (V, C), so that a tied head needs no second copy."""
        config = self._config
        weight = self._weight("wte.weight" if config.tied else "lm_head.weight")
        flat = self._add("Reshape", x, self._constant("flat", np.array([-1, config.width])))  # (B T, C)
        rows = self._constant("rows", np.array([config.vocab_rows]))
        shape = self._add("Concat", self._add("Shape", "input_ids"), rows, axis=0)
        self._node("Reshape", [self._add("Gemm", flat, weight, transB=1), shape], ["logits"])

    def _norm(self, x: str, name: str) -> str:
        return self._add("LayerNormalization", x, *self._pair(name), axis=-1, epsilon=self._config.norm_eps)

    def _linear(self, x: str, name: str) -> str:
        weight, *bias = self._pair(name)
        y = self._add("MatMul", x, weight)
        return self._add("Add", y, *bias) if bias else y

    def _pair(self, name: str) -> list[str]:
        """A layer's weight, and its bias if it has one."""
        return [self._weight(full) for full in (f"{name}.weight", f"{name}.bias") if full in self._weights]

    def _weight(self, name: str) -> str:
        """Return the name of a weight in the dtype of the computation."""
        return name if self._weights[name].dtype == self.dtype else f"{name}.cast"

    def _constant(self, name: str, value: Array | np.generic) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node whose only output has no name of its own."""
        return self._node(operator, list(inputs), [f"{operator}_{len(self.nodes)}"], **attributes)

    def _node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        name = f"node_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, outputs, name, **attributes))
        return outputs[0]

    def _declare(self, where: list[Any], name: str, dtype: np.dtype[np.generic], shape: tuple[str | int, ...]) -> None:
        where.append(self._helper.make_tensor_value_info(name, self._type(dtype), shape))

    def _type(self, dtype: np.dtype[np.generic]) -> int:
        return self._helper.np_dtype_to_tensor_dtype(dtype)
