"""``minifo completion``: the script by which a shell completes verbs, options and names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, ShellComplete, get_completion_class

VARIABLE = "_MINIFO_COMPLETE"  # click answers a shell that sets it (click, "Shell Completion")

# Names that a shell does not find by itself stand beside those that it does, which click's own script does not do: it
# leaves files to bash only where there is nothing else (``-o default``).  A value may hold any character but a newline.
# Bash takes = and : for words of their own (COMP_WORDBREAKS): here they are parts of one word again, of which bash
# replaces the part after the last of them.
_BASH = """\
%(complete_func)s() {
    local completion type value gap last= line=$COMP_LINE current=0 index prefix
    local -a words=()
    COMPREPLY=()
    for index in "${!COMP_WORDS[@]}"; do
        value=${COMP_WORDS[index]} gap=${line%%%%[![:space:]]*}
        line=${line#"$gap"}
        if [[ -z $gap && ( $value == [=:]* || $last == *[=:] ) ]] && ((${#words[@]})); then
            words[-1]+=$value
        else
            words+=("$value")
        fi
        line=${line#"$value"} last=$value
        ((index != COMP_CWORD)) || current=$((${#words[@]} - 1))
    done
    value=${COMP_WORDS[COMP_CWORD]}
    [[ $value != [=:] ]] || value=
    prefix=${words[current]%%"$value"}
    [[ $prefix != -*=* ]] || prefix=${prefix#*=}
    while IFS= read -r completion; do
        type=${completion%%%%,*} value=${completion#*,}
        case $type in
            plain)
                [[ $value != *[=/] ]] || compopt -o nospace 2>/dev/null
                COMPREPLY+=("${value#"$prefix"}")
                ;;
            dir | file)
                compopt -o filenames 2>/dev/null
                while IFS= read -r value; do
                    COMPREPLY+=("${value#"$prefix"}")
                done < <(compgen -A "${type/dir/directory}" -- "$value")
                ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$current %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -o default -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH


@click.command(
    "completion",
    epilog="""\b
Examples:
  minifo completion bash > /usr/share/bash-completion/completions/minifo
  minifo completion zsh > /usr/local/share/zsh/site-functions/_minifo
  minifo completion fish > /etc/fish/completions/minifo.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes minifo.

    It completes verbs, options and names: TARGETs are completed from the mounted overlays, PATHs also from what an
    overlay has deleted.
    """
    kind: type[ShellComplete] | None = _Bash if shell == "bash" else get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "minifo", VARIABLE).source(), nl=False)
