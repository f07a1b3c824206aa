"""Resolve a name, an address or a run to a local path: source table, downloads, model cache, Hugging Face Hub.

May import everything up to zoo.engine.
"""
