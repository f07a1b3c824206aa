"""TensorFlow checkpoints: bundles, their LevelDB index, protocol buffers.

May import zoo.errors, zoo.core and zoo.containers.
"""
