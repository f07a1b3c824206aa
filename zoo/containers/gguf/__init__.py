"""GGUF files: the header and tensors, writing them, and block quantisation.

May import zoo.errors, zoo.core and zoo.containers.
"""
