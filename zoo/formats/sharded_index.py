"""The index that training writes beside a sharded checkpoint, and that the format `sharded` reads.

It says without a pickle where the parameters are: {"config": {...}, "vocabulary": "...", "tensors": {name: {"dtype",
"shape", "pieces": [[file, offset, CRC-32, first index on each axis, shape], ...]}}}.
"""

INDEX = "zoo.json"
