"""zoo completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete zoo's commands, options, models and formats.

    \b
    Examples:
      eval "$(zoo completion bash)"                                # in ~/.bashrc
      eval "$(zoo completion zsh)"                                 # in ~/.zshrc
      zoo completion fish > ~/.config/fish/completions/zoo.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(made(ctx.find_root().command, {}, "zoo", "_ZOO_COMPLETE").source())
