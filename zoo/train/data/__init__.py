"""Training data: documents, token files, windows and their order.

May import everything up to zoo.api.
"""
