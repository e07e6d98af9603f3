"""The command line. Everything heavy is imported inside the commands, so that ``hopflow --help`` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_campaigns, cli_models, cli_stages, console

app = typer.Typer(
    name="hopflow",
    help="Screen crystals for fast ion transport: bond valence, graph network, machine-learned potentials, DFT-NEB.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_campaigns.register(app)
cli_stages.register(app)
app.add_typer(cli_models.app, name="models")


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    launchpad: Annotated[
        Path | None,
        typer.Option(
            help="Use the MongoDB of this launchpad file instead of the embedded database.", envvar="HOPFLOW_LAUNCHPAD"
        ),
    ] = None,
    home: Annotated[
        Path, typer.Option(help="Folder of the embedded database, checkpoints and hand-offs.", envvar="HOPFLOW_HOME")
    ] = Path(".hopflow"),
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Screen crystals for fast ion transport: bond valence, graph network, machine-learned potentials, DFT-NEB."""
    if version:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    context.obj = console.Options(launchpad=launchpad, home=home.absolute(), debug=debug)


def main() -> None:
    """Run the command line and turn errors into one sentence and an exit code: 0 done, 1 failed, 2 wrong use."""
    debug = "--debug" in sys.argv
    if debug:
        # The option may stand anywhere on the line; the parser knows it in front of the command.
        sys.argv = [sys.argv[0], "--debug", *[word for word in sys.argv[1:] if word != "--debug"]]
    try:
        app()
    except KeyboardInterrupt:
        console.complain("Stopped; `hopflow resume NAME` goes on from here.")
        sys.exit(1)
    except Exception as error:
        from ..transport.errors import HopflowError
        from .spec import SpecificationError

        if debug:
            raise
        if isinstance(error, SpecificationError):
            console.complain(str(error))
            sys.exit(2)
        if isinstance(error, HopflowError):
            console.complain(str(error))
            sys.exit(1)
        console.complain(
            f"{type(error).__name__}: {error}\nThis is a fault of hopflow; run again with --debug and report it."
        )
        sys.exit(1)
