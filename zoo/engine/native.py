"""The C library: its structs, and finding and loading it. csrc/engine.h declares and explains the same structs."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p, sizeof
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

TYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "int4": 4}
ROUND_BF16, ROUND_INT8 = 1, 2
"""Flags of Tokens.rounded: how activations of a prompt may be rounded."""
_ABI = 1


class Matrix(Structure):
    """A linear layer or an embedding."""

    _fields_ = [
        ("data", c_void_p),
        ("group_scales", c_void_p),
        ("row_scales", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int32),
        ("cols", c_int32),
        ("type", c_int32),
        ("padding", c_int32),
    ]


class Norm(Structure):
    """A layer norm."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Layer(Structure):
    """A transformer block."""

    _fields_ = [
        ("norm1", Norm),
        ("norm2", Norm),
        ("qkv", Matrix),
        ("out", Matrix),
        ("up", Matrix),
        ("down", Matrix),
    ]


class Model(Structure):
    """All weights and the sizes."""

    _fields_ = [
        ("tokens", Matrix),
        ("positions", Matrix),
        ("head", Matrix),
        ("final_norm", Norm),
        ("layers", POINTER(Layer)),
        ("n_layers", c_int32),
        ("n_heads", c_int32),
        ("width", c_int32),
        ("inner", c_int32),
        ("exact_gelu", c_int32),
        ("eps", c_float),
    ]


class Tokens(Structure):
    """One pass: new tokens, the caches they extend, and the tokens whose logits are returned."""

    _fields_ = [
        ("ids", c_void_p),
        ("row", c_void_p),
        ("position", c_void_p),
        ("wanted", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("logits", c_void_p),
        ("n", c_int32),
        ("n_wanted", c_int32),
        ("batch", c_int32),
        ("room", c_int32),
        ("halved", c_int32),
        ("rounded", c_int32),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """Return the library, or None where zoo was installed without a C compiler (or ZOO_ENGINE=off)."""
    if os.environ.get("ZOO_ENGINE") == "off":
        return None
    paths = [Path(__file__).with_name(f"_kernels{suffix}") for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    try:
        found = ctypes.CDLL(str(path))
    except OSError:  # built for another machine
        return None
    if not _matches(found):
        return None
    found.zoo_open.argtypes, found.zoo_open.restype = [POINTER(Model), c_int, c_int, c_char_p], c_void_p
    found.zoo_rounds.argtypes, found.zoo_rounds.restype = [c_void_p], c_int
    found.zoo_isa.argtypes, found.zoo_isa.restype = [c_void_p], c_char_p
    found.zoo_forward.argtypes, found.zoo_forward.restype = [c_void_p, POINTER(Tokens)], c_int
    found.zoo_close.argtypes, found.zoo_close.restype = [c_void_p], None
    found.zoo_read.argtypes, found.zoo_read.restype = [c_void_p, c_size_t], c_float
    for multiply in (
        found.zoo_multiply,
        found.zoo_multiply_bf16,
        found.zoo_multiply_int16,
        found.zoo_multiply_int8,
    ):
        multiply.argtypes, multiply.restype = [c_size_t], c_float
    return found


def _matches(found: ctypes.CDLL) -> bool:
    """Whether the library was built from sources with these structs; an old build has other ones, or no version."""
    try:
        found.zoo_abi.argtypes, found.zoo_abi.restype = [], c_int64
    except AttributeError:
        return False
    return bool(found.zoo_abi() == 1_000_000 * _ABI + sizeof(Model) + sizeof(Layer) + sizeof(Tokens))
