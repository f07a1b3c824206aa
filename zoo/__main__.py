"""`python -m zoo` is the zoo command; torchrun starts it so: `torchrun --nproc-per-node 8 -m zoo train ...`."""

from zoo.cli.main import main

if __name__ == "__main__":
    main(prog_name="zoo")
