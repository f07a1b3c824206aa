"""The weights of an engine: from a checkpoint's tensors to arrays, and to the pointers that the C side takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.containers.quantized import KINDS, Quantized, QuantizedTensor, kind_of, quantize
from zoo.core.tensors import DTYPES, LazyTensor, get_dtype
from zoo.engine import native
from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig

Weights = Mapping[str, NDArray[np.generic] | Quantized]
_NATIVE = ("float32", "bfloat16", "float16")


class Pointers:
    """Arrays that live as long as this, and the C struct that points to them.

    Attributes:
        model: the struct.
        nbytes: of the weights that a token reads.
    """

    def __init__(self, config: GPTConfig, weights: Weights) -> None:
        """Take weights by the names of GPTConfig.parameter_shapes; float32, bfloat16 and float16 are not copied.

        Raises:
            OptionError: one is missing or has another shape.
        """
        _check_shapes(config, weights)
        self._weights, self._held = weights, list[Any]()
        self._converted: list[tuple[NDArray[np.float32], NDArray[np.generic]]] = []
        self.nbytes = 0
        layers = (native.Layer * config.n_layers)()
        for i, layer in enumerate(layers):
            block = f"blocks.{i}"
            layer.norm1, layer.norm2 = self._norm(f"{block}.norm1"), self._norm(f"{block}.norm2")
            layer.qkv, layer.out = (self._matrix(f"{block}.attn.{name}") for name in ("qkv", "out"))
            layer.up, layer.down = (self._matrix(f"{block}.mlp.{name}") for name in ("up", "down"))
        self._held.append(layers)
        head = self._matrix("tok_emb" if config.tied else "head")
        read = self.nbytes
        tokens, positions = self._matrix("tok_emb"), self._matrix("pos_emb")
        self.nbytes = read  # of the embeddings a token reads one row
        self.model = native.Model(
            tokens, positions, head, self._norm("final_norm"), layers,
            config.n_layers, config.n_heads, config.width, config.inner_width,
            config.activation == "gelu", config.norm_eps,
        )  # fmt: skip

    def _matrix(self, name: str) -> native.Matrix:
        weight: Any = self._weights[f"{name}.weight"]
        of_groups = of_rows = None
        if isinstance(weight, Quantized):
            data, kind, scales = weight.data, weight.kind, self._keep(weight.scales)
            of_groups, of_rows = (scales, None) if kind == "int4" else (None, scales)
            self.nbytes += weight.scales.nbytes
        else:
            data, kind = weight, weight.dtype.name
        self.nbytes += data.nbytes
        return native.Matrix(
            self._keep(data), of_groups, of_rows, self._floats(f"{name}.bias"), *weight.shape, native.TYPES[kind], 0
        )

    def _norm(self, name: str) -> native.Norm:
        return native.Norm(self._floats(f"{name}.weight"), self._floats(f"{name}.bias"))

    def _floats(self, name: str) -> int | None:
        """A vector in float32, if there is one of this name."""
        vector: Any = self._weights.get(name)
        if vector is None:
            return None
        converted = vector.astype(np.float32, copy=False)
        if converted is not vector:
            self._converted.append((converted, vector))
        return self._keep(converted)

    def refresh(self) -> None:
        """Convert the vectors that are not float32 again, after weights were changed in place."""
        for converted, vector in self._converted:
            np.copyto(converted, vector.astype(np.float32))

    def _keep(self, array: NDArray[np.generic]) -> int:
        array = np.require(array, requirements=["C", "A"])
        self._held.append(array)
        return array.ctypes.data


def check_options(dtype: str | None, quantize: str | None) -> None:
    """Refuse precisions that the engine does not have.

    Raises:
        OptionError: dtype or quantize is not one that the engine has.
    """
    if quantize not in (None, *KINDS):
        raise OptionError(f"quantize must be int8 or int4, not {quantize!r}")
    if dtype in KINDS:
        raise OptionError(f"{dtype} is a quantisation, not a dtype; ask for it with `--quantize {dtype}`")
    if dtype and get_dtype(dtype).name not in _NATIVE:
        raise OptionError(f"the engine computes with weights of {', '.join(_NATIVE)}, not {dtype!r}")


def load_weights(tensors: Mapping[str, LazyTensor], dtype: str | None, quantize: str | None) -> Weights:
    """Load tensors, mapped where they need no change; Engine.open says what dtype and quantize do."""
    if dtype is None and quantize is None:
        quantize = min((t.kind for t in tensors.values() if isinstance(t, QuantizedTensor)), default=None)
    cast = get_dtype(dtype) if dtype else _usual(tensors)
    return {name: _load(name, tensor, cast, quantize) for name, tensor in tensors.items()}


def _check_shapes(config: GPTConfig, weights: Mapping[str, Any]) -> None:
    for name, shape in config.parameter_shapes().items():
        if (found := getattr(weights.get(name), "shape", None)) != shape:
            raise OptionError(f"{name} must have the shape {shape}, not {found}")


def _usual(tensors: Mapping[str, LazyTensor]) -> np.dtype[np.generic]:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= {DTYPES[name] for name in _NATIVE} else DTYPES["float32"]


def _load(
    name: str, tensor: LazyTensor, dtype: np.dtype[np.generic], kind: str | None
) -> NDArray[np.generic] | Quantized:
    found = kind_of(name, tensor.shape, kind)
    if isinstance(tensor, QuantizedTensor) and tensor.kind == found:
        return tensor.stored()
    if found:
        return quantize(tensor.load(), found)
    return tensor.astype(dtype).load()
