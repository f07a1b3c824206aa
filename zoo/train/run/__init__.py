"""A training run: the loop, checkpoints, metrics, samples, resuming.

May import everything up to zoo.api, zoo.train.data and zoo.train.step.
"""
