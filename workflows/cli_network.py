"""The command that takes the interstitial network of structure files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import console
from .cli_landscapes import only_structure
from .cli_stages import (
    AsJson,
    Files,
    Ion,
    Oxidation,
    _leave,
    _oxidation_states,
    answer_text,
    structure_answers,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.interstitial_network import InterstitialNetwork


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel="Stages on structure files")(network)


def network(
    context: typer.Context,
    files: Files,
    ion: Ion = "Li",
    as_json: AsJson = False,
    oxidation_states: Oxidation = None,
    radii: Annotated[
        Literal["shannon", "effective"], typer.Option(help="Radii of the framework: tables or distances.")
    ] = "shannon",
    radius: Annotated[
        list[str] | None,
        typer.Option(help="A radius in Angstrom that wins, for instance `--radius O=1.24`.", metavar="SPECIES=A"),
    ] = None,
    face_centres: Annotated[
        bool, typer.Option("--face-centres", help="Count face centres as interstices, too.")
    ] = False,
    merge: Annotated[
        float, typer.Option(min=0, max=2.9, help="Merge voids closer than this (Angstrom) into the better one.")
    ] = 0.0,
    predict: Annotated[
        bool, typer.Option("--predict", help="Predict bond-valence barriers from the network, without bond valences.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the network of one structure here (.html).", show_default=False)
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="Write the whole network of one structure here: .json or .cif.", show_default=False),
    ] = None,
) -> None:
    """Voids between the atoms, the bottlenecks between voids, and the sphere that percolates."""
    from ..transport.interstitial_network import InterstitialNetworkSettings, interstitial_network
    from .network_outputs import FIGURE_SUFFIXES, WRITE_SUFFIXES, prediction_document, summary
    from .spec import check_ion

    try:
        check_ion(ion)
        settings = InterstitialNetworkSettings(
            radii=radii, given_radii_A=_radii(radius), face_centres=face_centres, merge_close_A=merge
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    states = None if oxidation_states is None else _oxidation_states(oxidation_states)
    outputs = {"figure": (figure, FIGURE_SUFFIXES), "write": (write, WRITE_SUFFIXES)}
    wanted = {name: (path, suffixes) for name, (path, suffixes) in outputs.items() if path is not None}
    for name, (path, suffixes) in wanted.items():
        if path.suffix.lower() not in suffixes:
            raise typer.BadParameter(f"--{name} {path}: the name has to end with {' or '.join(suffixes)}.")
        console.check_output_file(path, files)
    if wanted:
        only_structure(files, " and ".join(f"--{name}" for name in wanted))

    def evaluate(structure: Structure) -> tuple[dict[str, Any], InterstitialNetwork]:
        found = interstitial_network(structure, ion, settings, states)
        document = summary(found)
        if predict:
            added = prediction_document(found, states)
            document.update(prediction=added["prediction"], warnings=document["warnings"] + added["warnings"])
        return document, found

    answers = []
    for file in files:
        for answer, found in structure_answers(file, "network", context.obj.debug, evaluate):
            answers.append(answer)
            said = _written(found, figure, write) if found is not None else []
            _tell(answer, as_json, said)
    _leave(answers)


def _written(found: InterstitialNetwork, figure: Path | None, write: Path | None) -> list[str]:
    said = []
    if write is not None:
        from .network_outputs import write_network

        said.append(f"network: {write_network(found, write)}")
    if figure is not None:
        from .network_figure import network_figure

        formula = found.structure.composition.remove_charges().reduced_formula
        figure.parent.mkdir(parents=True, exist_ok=True)
        with console.at_work("drawing"):
            network_figure(found, f"{formula}: interstitial network of {found.ion}").write_html(figure)
        said.append(f"figure: {figure}")
    return said


def _tell(answer: dict[str, Any], as_json: bool, said: list[str]) -> None:
    from .network_outputs import sentence

    if as_json:
        console.print_json(answer, indent=None)
        return
    console.say(answer_text(answer, sentence))
    for text in said:
        console.say(f"  {text}")


def _radii(pairs: list[str] | None) -> dict[str, float]:
    try:
        return {name.strip(): float(value) for name, value in (pair.split("=") for pair in pairs or [])}
    except ValueError:
        raise typer.BadParameter(f"{' '.join(pairs or [])!r} is not of the form O=1.24.") from None
