"""Training: the parts of a training step, the training loop, and the run directories of `zoo train`.

See docs/training.md.
"""
