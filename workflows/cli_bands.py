"""The command that runs nudged elastic bands: of the hops of structure files, or of a table of migration paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console
from .cli_stages import AsJson, Ion, Settings, _leave, _run, read_changes

if TYPE_CHECKING:
    from rich.table import Table

    from ..makers.settings import PathBandSettings
    from .path_bands import BandAnswer, BandJob

Potential = Annotated[
    str | None, typer.Option(help="Potential, as `hopflow models list` names it.", metavar="NAME", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel="Stages on structure files")(neb)


def neb(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Structure files: CIF, POSCAR, JSON or JSON lines.", show_default=False),
    ] = None,
    ion: Ion = "Li",
    as_json: AsJson = False,
    settings: Settings = None,
    band: Annotated[
        Path | None, typer.Option(help="Write the limiting band of one structure here (extended XYZ).")
    ] = None,
    paths: Annotated[
        Path | None,
        typer.Option(help="Instead of structures: a path table, JSON lines, also gzipped; one answer a row."),
    ] = None,
    potential: Potential = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the rows of a path table.")] = 1,
    bands: Annotated[
        Path | None, typer.Option(help="Write the band of each row of a path table into this folder (extended XYZ).")
    ] = None,
) -> None:
    """Climbing-image NEB of the hop that limits the cheapest path, or of every path of a table."""
    changes = list(settings or [])
    if potential is not None:
        changes.append(f"potential={potential}")
    if paths is not None:
        if files or band is not None:
            raise typer.BadParameter("--paths takes a path table alone; leave out structure files and --band.")
        _answer_table_of_paths(context.obj.home, paths, as_json, path_band_settings(changes), workers, bands)
        return
    if not files:
        raise typer.BadParameter("Give structure files, or a path table with --paths.")
    if workers != 1 or bands is not None:
        raise typer.BadParameter("--workers and --bands go with --paths.")
    if band is not None and len(files) > 1:
        raise typer.BadParameter("--band takes the band of one structure; give one file.")
    if band is not None:
        console.check_output_file(band, files)
    documents = _run(context, "neb", files, ion, as_json, changes, leave=False)
    if band is not None and documents and documents[0].get("images_extxyz"):
        band.parent.mkdir(parents=True, exist_ok=True)
        band.write_text(documents[0]["images_extxyz"])
    _leave(documents)


def path_band_settings(changes: list[str]) -> PathBandSettings:
    """Settings of the bands of a path table from ``KEY=VALUE`` pairs."""
    from ..makers.settings import PathBandSettings
    from ..potentials.registry import check_potential_name
    from ..transport.errors import HopflowError

    settings = read_changes(PathBandSettings, "neb --paths", changes)
    try:
        check_potential_name(settings.potential)
    except HopflowError as error:
        raise console.WrongUse(str(error)) from error
    return settings


def band_job(home: Path, settings: PathBandSettings, bands: Path | None = None) -> BandJob:
    """What rows are run with; bands are kept under the home folder."""
    from ..makers.path_band import CHECKPOINTS
    from .path_bands import BandJob

    return BandJob(settings, home / "checkpoints" / CHECKPOINTS, bands)


def collect_answers(
    answers: Iterable[BandAnswer], what: str, say: Callable[[BandAnswer], None] | None = None
) -> list[BandAnswer]:
    """Take answers one by one, with a word on a terminal about how far they are; ``say`` gets each as it comes."""
    found: list[BandAnswer] = []
    source = iter(answers)
    while True:
        with console.quiet_stdout(), console.at_work(f"{what}: {len(found)} paths answered"):
            answer = next(source, None)
        if answer is None:
            return found
        found.append(answer)
        if say is not None:
            say(answer)


def _answer_table_of_paths(
    home: Path, file: Path, as_json: bool, settings: PathBandSettings, workers: int, bands: Path | None
) -> None:
    from ..learning.path_rows import PathFileError, iterate_path_rows
    from .path_bands import answer_bands

    if bands is not None:
        console.check_output_file(bands / "band.extxyz", [file])
    job = band_job(home, settings, bands)

    def say(answer: BandAnswer) -> None:
        if as_json:
            console.print_json(answer.document(), indent=None)

    try:
        answers = collect_answers(answer_bands(iterate_path_rows(file), job, workers), str(file), say)
    except PathFileError as error:
        raise console.WrongUse(str(error)) from error
    answered = sum(answer.barrier_eV is not None for answer in answers)
    if answers and not as_json:
        console.show(_answer_table(answers))
        console.say(
            f"{answered} of {len(answers)} paths have a barrier (highest less lowest image) by {answers[0].method}"
        )
    console.complain_of_table(
        file, [answer.path_id for answer in answers], answered, f"No path of {file} has a barrier."
    )
    if not answered:
        raise typer.Exit(1)


def _answer_table(answers: list[BandAnswer]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("path", overflow="fold")
    for title in ("barrier, eV", "forward", "reverse", "splined", "force, eV/Å", "evaluations", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    failed = any(answer.error for answer in answers)
    if failed:
        table.add_column("why there is none", overflow="fold")
    for answer in answers:
        barriers = (
            answer.barrier_eV,
            answer.barrier_forward_eV,
            answer.barrier_reverse_eV,
            answer.splined_span_eV,
            answer.max_force_eV_per_A,
        )
        numbers = ["-" if value is None else f"{value:.3f}" for value in barriers]
        notes = [Text(answer.error or "")] if failed else []
        table.add_row(Text(str(answer.path_id)), *numbers, str(answer.evaluations), f"{answer.seconds:.1f}", *notes)
    return table
