"""One training step: loss, schedule, optimizer, LoRA, several processes.

May import everything up to zoo.hub, and zoo.train.data.
"""
