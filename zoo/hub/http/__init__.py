"""Download one file over HTTP: requests, resuming, hashing.

May import zoo.errors, zoo.core and zoo.hub.source_table.
"""
