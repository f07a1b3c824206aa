"""Architectures, one folder per model family, and the registry of configs by name.

May import zoo.errors, zoo.core and zoo.text.
"""
