"""Shell completion: `lakefeed completion SHELL` prints what a shell has to load.

The shells call `lakefeed` back with the words typed so far; Typer answers with commands, options
and, through `common.complete_path`, the paths inside the lake on the command line. The scripts are
our own: names in a lake come from anywhere, and Typer's let zsh evaluate them and bash expand them.
Here no shell reads a name as anything but a word, and each quotes what it puts on the line.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from lakefeed.cli.common import exit_codes
from lakefeed.cli.output import print_line

commands = typer.Typer()


class Shell(str, Enum):
    """The shells that completion exists for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


# Within quotes, only what needs no further quoting.
_BASH = r"""
_lakefeed_completion() {
    local IFS=$'\n' typed=${COMP_WORDS[COMP_CWORD]} offered name quoted
    mapfile -t offered < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \
        _LAKEFEED_COMPLETE=complete_bash lakefeed)
    COMPREPLY=()
    for name in "${offered[@]}"; do
        [[ -n $name ]] || continue
        printf -v quoted %q "$name"
        if [[ $typed != *[\"\']* ]]; then COMPREPLY+=("$quoted")
        elif [[ $name != *[\"\'\\\$\`!]* ]]; then COMPREPLY+=("$name"); fi
    done
    if [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == */ ]]; then compopt -o nospace; fi
}
complete -o default -F _lakefeed_completion lakefeed
"""
# Fish's answer is one word and, after a tab, its help a line. In a file `_lakefeed`
# that zsh loads when the key is first pressed, the script replaces itself by the function.
_ZSH = r"""
#compdef lakefeed
_lakefeed() {
    local line
    local -a names shown suffix
    for line in "${(@f)$(env _LAKEFEED_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \
        _TYPER_COMPLETE_ARGS="${(j: :)words[1,CURRENT]}" lakefeed)}"; do
        [[ -n "$line" ]] || continue
        names+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    (( $#names )) || { _files; return }
    [[ $#names == 1 && "$names[1]" == */ ]] && suffix=(-S '')
    if [[ "$names" == "$shown" ]]; then compadd "${suffix[@]}" -a names
    else compadd -l -d shown -a names; fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _lakefeed "$@"
else compdef _lakefeed lakefeed; fi
"""
_FISH = r"""
function _lakefeed_completion
    env _LAKEFEED_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) lakefeed
end
complete --command lakefeed --no-files --arguments "(_lakefeed_completion get-args)" \
    --condition "_lakefeed_completion is-args"
"""
_SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


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
    print_line(_SCRIPTS[shell].strip())
