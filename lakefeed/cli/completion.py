"""Shell completion: `lakefeed completion SHELL` prints what a shell has to load.

The shells call `lakefeed` back with the words typed so far; Typer answers with commands, options
and, through `common.complete_path`, the paths inside the lake on the command line.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from typer._completion_shared import get_completion_script

from lakefeed.cli.common import exit_codes
from lakefeed.cli.output import print_line

commands = typer.Typer()


class Shell(str, Enum):
    """The shells that completion exists for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@commands.command("completion", epilog=exit_codes())
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell: commands, options, and paths inside a lake.

    \b
    lakefeed completion bash > ~/.local/share/bash-completion/completions/lakefeed
    lakefeed completion zsh  > "${fpath[1]}/_lakefeed"
    lakefeed completion fish > ~/.config/fish/completions/lakefeed.fish
    source <(lakefeed completion bash)        # this shell only
    """
    script = get_completion_script(
        prog_name="lakefeed", complete_var="_LAKEFEED_COMPLETE", shell=shell.value
    )
    print_line(script)
