"""Pieces for a training loop of your own: LoRA, several processes, sharded checkpoints, plots, TensorBoard.

zoo has no training loop and no `zoo train` yet.
"""
