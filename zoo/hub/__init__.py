"""From a name, an address or a run to a path on this machine: sources, downloads, model cache, Hugging Face Hub.

May import everything up to zoo.engine.
"""
