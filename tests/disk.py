"""A disk that is full, without a disk of one's own."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size):
    """A disk that takes no more than `size` bytes of any file, whoever writes and how."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
