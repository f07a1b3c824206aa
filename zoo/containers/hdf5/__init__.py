"""HDF5 files: reading through libhdf5 in a worker process, and writing.

May import zoo.errors, zoo.core and zoo.containers.
"""
