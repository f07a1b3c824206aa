"""zoo completion."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, get_completion_class

_BASH_FILES = """
            compopt -o filenames
            while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")"""
"""Adds files to the names that zoo offers; click's script shows files only where there are no names."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete zoo's commands.

    It completes options, models, formats, runs and files, too.

    \b
    Examples:
      eval "$(zoo completion bash)"                                # in ~/.bashrc
      eval "$(zoo completion zsh)"                                 # in ~/.zshrc
      zoo completion fish > ~/.config/fish/completions/zoo.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    script = made(ctx.find_root().command, {}, "zoo", "_ZOO_COMPLETE").source()
    if issubclass(made, BashComplete):
        script = script.replace("\n            COMPREPLY=()\n            compopt -o default", _BASH_FILES)
    click.echo(script)
