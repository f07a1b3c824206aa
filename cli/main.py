"""The zoo command and its list of commands."""

from __future__ import annotations

import click

import zoo
from zoo.cli._group import Group, quiet_libraries
from zoo.cli.bench import bench
from zoo.cli.cache import cache
from zoo.cli.completion import completion
from zoo.cli.convert import convert
from zoo.cli.data import data
from zoo.cli.diff import diff
from zoo.cli.download import download
from zoo.cli.evaluate import evaluate
from zoo.cli.formats import formats
from zoo.cli.generate import generate
from zoo.cli.hash import hash_
from zoo.cli.inspect import inspect
from zoo.cli.list import list_
from zoo.cli.plot import plot
from zoo.cli.push import push
from zoo.cli.tokenize import tokenize
from zoo.cli.train import train
from zoo.cli.verify import verify

_COMMANDS = (
    convert, generate, train, evaluate, verify, inspect, diff, hash_, tokenize, list_, formats,
    download, cache, push, data, plot, bench, completion,
)  # fmt: skip


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(zoo.__version__, prog_name="zoo")
def main() -> None:
    """Convert, verify, run and train GPT-2 checkpoints.

    Exit status: 0 done; 1 failed, or (diff, verify) different; 2 wrong usage,
    such as a value that an option cannot have.

    \b
    Examples:
      zoo convert --from openai --size 355M --out gpt2m.safetensors
      zoo convert gpt2m.safetensors gpt2m-hf --to huggingface
      zoo generate --model gpt2m.safetensors "Every effort moves you"
      zoo inspect gpt2m.safetensors --stats
    """
    quiet_libraries()


for command in _COMMANDS:
    main.add_command(command)
