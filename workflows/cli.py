"""The command line. Everything heavy is imported inside the commands, so that ``hopflow --help`` answers at once."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

from . import (
    cli_answers,
    cli_bands,
    cli_barriers,
    cli_benchmark,
    cli_campaigns,
    cli_dft,
    cli_finetune,
    cli_learning,
    cli_models,
    cli_network,
    cli_stages,
    console,
)

INTERRUPTED = 130
"""What the command parser ends with after Ctrl-C."""

app = typer.Typer(
    name="hopflow",
    help="Screen crystals for fast ion transport: bond valence, graph network, machine-learned potentials, DFT-NEB.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_campaigns.register(app)
cli_answers.register(app)
cli_stages.register(app)
cli_bands.register(app)
app.add_typer(cli_dft.app, name="dft", rich_help_panel="Stages on structure files")
cli_network.register(app)
cli_learning.register(app)
cli_finetune.register(app)
cli_barriers.register(app)
app.add_typer(cli_benchmark.app, name="benchmark")
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
    else:
        # Parsers of structure files warn about what hopflow judges itself.
        warnings.simplefilter("ignore")
        # spglib says by its answer what it also prints past Python's own streams; worker processes inherit this.
        os.environ.setdefault("SPGLIB_WARNING", "OFF")
    try:
        app(prog_name="hopflow")
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        console.complain("Stopped.")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  whatever it is, a person gets a sentence and a script an exit code
        if debug:
            traceback.print_exc()
        else:
            console.complain(_sentence(error))
        sys.exit(_exit_code(error))


def _sentence(error: Exception) -> str:
    """Say an error in a person's words."""
    from ..transport.errors import HopflowError

    if isinstance(error, HopflowError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return f"{type(error).__name__}: {error}\nThis is a fault of hopflow; run again with --debug and report it."


def _exit_code(error: Exception) -> int:
    if isinstance(error, console.WrongUse):
        return 2
    # A campaign file that is wrong can only come from a command that has loaded its reader.
    reader = sys.modules.get(f"{__package__}.spec")
    return 2 if reader is not None and isinstance(error, reader.SpecificationError) else 1
