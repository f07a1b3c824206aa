"""Tools that know no model: lazy tensors, axis patterns, writing, atomic outputs, safe paths, statistics, progress.

May import zoo.errors.
"""
