"""``completion``, of both programs: click's own script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
_LOAD_ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"
"""Who evaluates the script may not have loaded zsh's completion."""
_FISH_PARTS, _FISH_TWO_PARTS = 'string split "," $completion', 'string split --max 1 "," $completion'
"""What is told of an option may have commas."""


def completion_command(program: str) -> click.Command:
    """The command for a program, whose name as it is installed is given."""

    @click.command("completion", epilog=f'Example: eval "$({program} completion bash)"')
    @click.argument("shell", type=click.Choice(SHELLS))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        """Print the script that completes this program's commands and options in a shell.

        For each new shell: a line in ~/.bashrc or ~/.zshrc evaluates what this prints; fish reads it from
        ~/.config/fish/completions.
        """
        kind = get_completion_class(shell)
        if kind is None:
            raise click.UsageError(f"the installed click completes nothing in {shell}")
        variable = f"_{program.replace('-', '_')}_COMPLETE".upper()
        script = kind(context.find_root().command, {}, program, variable).source()
        if shell == "zsh":
            first, _, rest = script.partition("\n")  # which says what it completes, where zsh looks for that itself
            script = f"{first}\n{_LOAD_ZSH}{rest}"
        click.echo(script.replace(_FISH_PARTS, _FISH_TWO_PARTS))

    return completion
