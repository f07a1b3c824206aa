"""Formats: rules and tables, config maps, the plugin registry, opening a path, content hash.

May import zoo.errors, zoo.core, zoo.containers, zoo.text and zoo.models.
"""
