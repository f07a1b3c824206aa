"""Comparison, verification and summary of checkpoints.

May import everything up to zoo.conversion.
"""
