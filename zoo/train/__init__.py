"""Training: pieces to compose, and the loop and the runs that `zoo train` makes of them. See docs/training.md."""
