"""Completion, for a shell by itself and for kubectl."""

import click
from click.shell_completion import ShellComplete, get_completion_class

from kubectl_hoop.options import FINE

PROGRAM = "kubectl-hoop"
VARIABLE = "_KUBECTL_HOOP_COMPLETE"
FILES, NO_FILES = 0, 4
"""What kubectl shall do beside the words that it gets (`ShellCompDirective` of cobra)."""


@click.command(
    epilog="Example: source <(kubectl hoop completion bash)",
    short_help="Print a script that completes kubectl-hoop.",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script by which a shell completes kubectl-hoop.

    For `kubectl hoop`, kubectl itself calls kubectl_complete-hoop, which has to be on PATH.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 -- click has all three
    click.echo(found(context.find_root().command, {}, PROGRAM, VARIABLE).source())
    return FINE


def complete_for_kubectl(command: click.Command, words: list[str]) -> int:
    """Print what may stand for the last of some words, as kubectl wants it."""
    *before, incomplete = words or [""]
    items = ShellComplete(command, {}, PROGRAM, VARIABLE).get_completions(before, incomplete)
    for item in items:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(f":{FILES if any(item.type != 'plain' for item in items) else NO_FILES}")
    return FINE
