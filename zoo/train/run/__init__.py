"""A training run: the loop, checkpoints, metrics, samples, resuming.

May import everything up to zoo.hub, zoo.train.data and zoo.train.step.
"""
