"""The zoo command: its commands, and the one place where errors become a line on stderr and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import click

import zoo
import zoo.core.progress
from zoo.cli._show import byte_progress, printable
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
from zoo.cli.train import train
from zoo.cli.verify import verify
from zoo.errors import ZooError


class ZooGroup(click.Group):
    """A group whose commands show a ZooError as one line and exit with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Anything but a ZooError passes: it is a bug, and its traceback is wanted."""
        if not sys.stderr.isatty():
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # one line says what went wrong
        with suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed, as by Ctrl-C
        zoo.core.progress.show = partial(byte_progress, quiet=False)
        try:
            return super().invoke(ctx)
        except ZooError as error:
            raise click.ClickException(printable(" ".join(str(error).split()))) from error


@click.group(cls=ZooGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(zoo.__version__, prog_name="zoo")
def main() -> None:
    """Convert, inspect and run GPT-2 checkpoints.

    \b
    Examples:
      zoo convert --source models/355M --size 355M --out gpt2m.safetensors
      zoo generate --model gpt2m.safetensors "Every effort moves you"
      zoo inspect gpt2m.safetensors --stats
    """


for command in (
    convert,
    generate,
    bench,
    train,
    evaluate,
    data,
    inspect,
    diff,
    hash_,
    verify,
    download,
    cache,
    push,
    list_,
    formats,
    plot,
    completion,
):
    main.add_command(command)
