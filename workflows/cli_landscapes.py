"""What the stage commands write of a landscape: volumes, figures and paths of one structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import console

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..makers.pes import LandscapeMaker
    from ..makers.settings import StageSettings
    from .landscape_outputs import OutputFiles


def wanted_outputs(
    files: list[Path], dimension: int, outputs: dict[str, Path | None]
) -> tuple[OutputFiles, Structure | None]:
    """Check what is to be written, before anything is computed.

    Parameters
    ----------
    files
        Structure files of the command.
    dimension
        Independent directions that are drawn.
    outputs
        File names by the attributes of :class:`OutputFiles`.

    Returns
    -------
    tuple
        The outputs, and the one structure that they are made for; None when it cannot be read, which the stage says
        itself.
    """
    from .landscape_outputs import OutputFiles

    wanted = OutputFiles(**outputs, dimension=dimension)
    try:
        wanted.check()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    structure = only_structure(files, " and ".join(f"--{name}" for name in wanted.named()))
    for each in wanted.named().values():
        console.check_output_file(each, files)
    return wanted, structure


def only_structure(files: list[Path], options: str) -> Structure | None:
    """The one structure that outputs are made for; nothing when it cannot be read, which the stage says itself."""
    from ..transport.structures import read_structures

    if len(files) > 1:
        raise typer.BadParameter(f"{options} can show one structure only; give one file.")
    if files[0].is_dir():
        return None
    with console.quiet_stdout():
        entries = read_structures(files[0])
    if len(entries) > 1:
        raise typer.BadParameter(
            f"{options} can show one structure only, and {files[0]} holds {len(entries)}; give one."
        )
    return entries[0].structure if entries else None


def bond_valence_outputs(
    wanted: OutputFiles,
    structure: Structure,
    ion: str,
    settings: StageSettings,
    document: dict[str, Any],
    as_json: bool,
) -> None:
    """Write the outputs of the bvse stage and say so; standard output stays JSON where that was asked for."""
    from .landscape_outputs import write_outputs
    from .terminal import is_prediction

    if is_prediction({"source": document["barrier_source"]}):
        console.complain(
            "There is no landscape to show: the barrier is a prediction of the interstitial network, because the "
            "bond-valence table has no parameters for this crystal."
        )
        raise typer.Exit(1)
    barriers = {k: document[f"barrier_{k}d_eV"] for k in (1, 2, 3)}
    _write(lambda: write_outputs(wanted, structure, ion, settings, barriers), as_json)  # type: ignore[arg-type]


def scan_outputs(
    wanted: OutputFiles, structure: Structure, maker: LandscapeMaker, checkpoints: Path, as_json: bool
) -> None:
    """Write the outputs of the pes stage, of the ion with the lowest barrier; its energies are read back."""
    from .landscape_outputs import write_landscape
    from .landscape_views import scanned_landscape

    def write() -> dict[str, str]:
        cell, result = maker.landscape(structure, checkpoints)
        landscape = scanned_landscape(cell, maker.ion, result.best)
        return write_landscape(wanted, landscape, landscape if wanted.draws else None)

    _write(write, as_json)


def _write(write: Callable[[], dict[str, str]], as_json: bool) -> None:
    from ..transport.errors import CandidateError

    try:
        with console.quiet_stdout(), console.at_work("drawing"):
            said = write()
    except CandidateError as error:
        console.complain(str(error))
        raise typer.Exit(1) from error
    if not as_json:
        for name, text in said.items():
            console.say(f"  {name}: {text}")
