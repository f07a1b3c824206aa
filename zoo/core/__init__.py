"""Tools that do not depend on a model: lazy tensors, axis patterns, parallel writing, atomic outputs, safe paths,
statistics, progress.

May import zoo.errors.
"""
