"""Weights from where they are published: addresses, downloads that survive anything, and a cache.

sources.py      the table of addresses
http.py         one request, checked
transfer.py     one file; with part.py, what is here of it, hasher.py, its SHA-256, and background.py, its threads
files.py        all files of a source, in a directory
cache.py        what was downloaded, by the hash of its bytes; with locks.py
models.py       from a name or a URL to a file
"""
