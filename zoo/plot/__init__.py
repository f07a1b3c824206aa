"""Plots of losses, next-token distributions, weights and speeds, with matplotlib (extra `plot`)."""
