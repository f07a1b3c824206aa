"""One training step: loss, schedule, optimizer, LoRA, distributed training.

May import everything up to zoo.api, and zoo.train.data.
"""
