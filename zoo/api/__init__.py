"""The public functions, which take whatever a user names: a path, the name of a model, an address, a run.

May import everything up to zoo.hub.
"""
