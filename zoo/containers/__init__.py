"""Byte formats without any model knowledge: safetensors, torch files, TensorFlow bundles, GGUF, HDF5, msgpack.

May import zoo.errors and zoo.core.
"""
