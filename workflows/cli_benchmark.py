"""Commands that judge potentials against reference data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .cli_bands import band_job, collect_answers, path_band_settings
from .cli_campaigns import count_of
from .cli_stages import Settings

if TYPE_CHECKING:
    from ..makers.settings import PathBandSettings
    from .band_benchmark import Selection
    from .path_bands import BandAnswer

app = typer.Typer(help="Judge potentials against reference data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Judge potentials against reference data."""


@app.command("neb")
def benchmark_neb(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            help="Path table with barrier_dft_eV (JSON lines, also gzipped), or a nebDFT2k folder or its index (.csv).",
            show_default=False,
        ),
    ],
    potential: Annotated[
        str,
        typer.Option(
            help="Potentials, as `hopflow models list` names them, or dotted paths of ASE calculators.",
            metavar="NAME[,NAME]",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder that receives tables, figure and bands.", show_default=False)],
    max_atoms: Annotated[int, typer.Option(min=0, help="Leave out larger cells; 0 leaves out none.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="Draw so many paths by lot; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the lot.")] = 0,
    settings: Settings = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    campaign: Annotated[
        str | None,
        typer.Option(
            help="Put the paths on the launchpad as a campaign of this name, for `hopflow run`; called again, it takes "
            "up what has been found.",
            metavar="NAME",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the benchmark as JSON.")] = False,
) -> None:
    """Nudged elastic bands against reference barriers; interrupted, it goes on where it stood."""
    from ..learning.path_rows import PathRow
    from ..transport.errors import HopflowError
    from .band_benchmark import benchmark_markdown, run_benchmark, select_paths, write_benchmark
    from .path_bands import answer_bands
    from .reference_paths import read_references

    # a comma between the arguments of a calculator separates no names
    parts = re.split(r",(?![^(]*\))", potential)
    names = list(dict.fromkeys(name.strip() for name in parts if name.strip()))
    if not names:
        raise typer.BadParameter("Name a potential.", param_hint="--potential")
    chosen = {name: path_band_settings([*(settings or []), f"potential={name}"]) for name in names}
    console.check_output_file(output / "benchmark.json", [data])
    with console.quiet_stdout(), console.at_work("reading the paths"):
        try:
            paths, left_out = read_references(data)
        except HopflowError as error:
            raise console.WrongUse(str(error)) from error
    selection = select_paths(paths, max_atoms, limit, seed)
    output.mkdir(parents=True, exist_ok=True)
    stated = {"selection": selection.sentence, "path_ids": [path.path_id for path in selection.paths]}
    (output / "selection.json").write_text(console.json_text(stated) + "\n")
    if not as_json:
        console.say(selection.sentence)
    if left_out:
        console.complain(f"{len(left_out)} rows of {data} are no path with a barrier; benchmark.json names them.")
    if not selection.paths:
        console.complain(f"No path of {data} is left to run.")
        raise typer.Exit(1)

    if campaign is not None:
        if workers != 1:
            raise typer.BadParameter("--workers goes with `hopflow run` where the paths are a campaign.")
        if not _launch_campaign(context, campaign, selection, list(chosen.values())):
            console.complain(f"{campaign}: nothing has been run yet; `hopflow run {campaign}`, then call this again.")
            return

    def run(name: str, rows: Sequence[dict[str, Any]], bands: Path) -> list[BandAnswer]:
        if campaign is not None:
            return _campaign_answers(context, campaign, name, bands)
        entries = (PathRow(row["path_id"], row, None) for row in rows)
        job = band_job(context.obj.home, chosen[name], bands)
        return collect_answers(answer_bands(entries, job, workers), name)

    document = {
        "data": str(data),
        "settings": {name: each.model_dump() for name, each in chosen.items()},
        **run_benchmark(selection, names, run, output / "bands", left_out),
    }
    files = write_benchmark(selection, document, output)
    if as_json:
        console.print_json(document)
    else:
        # the sentence stands above already
        console.say(benchmark_markdown(document).partition("\n\n")[2])
        console.say("")
        console.say(f"written to {output}: {', '.join(files)}, bands")
    if campaign is not None:
        _say_what_is_open(campaign, document)
    if not any(each["converged"] for each in document["converged"].values()):
        raise typer.Exit(1)


def _launch_campaign(context: typer.Context, name: str, selection: Selection, settings: list[PathBandSettings]) -> bool:
    """Launch the campaign or what is missing of it; returns whether it has any result."""
    from .benchmark_campaign import launch_benchmark
    from .benchmark_spec import BandBenchmarkSpec
    from .database import create_indexes
    from .ledger import Ledger
    from .spec import NAME_PATTERN

    if not re.match(NAME_PATTERN, name):
        raise typer.BadParameter("use letters, digits, `_`, `.` and `-`, 64 at most.", param_hint="--campaign")
    path_ids = [str(path.path_id) for path in selection.paths]
    spec = BandBenchmarkSpec(name=name, potentials=settings, selection=selection.sentence, path_ids=path_ids)
    with console.opened(context.obj) as database, console.quiet_stdout():
        create_indexes(database)
        summary = launch_benchmark(database, spec, selection, context.obj.home)
        found = any(stage != "intake" for row in Ledger(database, name).rows() for stage in row["stages"])
    if not summary.already_launched:
        jobs = count_of(summary.entered * len(settings), "job")
        console.complain(f"{name}: {count_of(summary.candidates, 'path')} launched as {jobs}.")
    return found


def _campaign_answers(context: typer.Context, name: str, potential: str, bands: Path) -> list[BandAnswer]:
    from .benchmark_campaign import campaign_answers

    with console.opened(context.obj, read_only=True) as database:
        return campaign_answers(database, name, potential, bands)


def _say_what_is_open(name: str, document: dict[str, Any]) -> None:
    from .benchmark_campaign import NOT_RUN

    counts = [each["reasons"].get(NOT_RUN, 0) for each in document["converged"].values()]
    if any(counts):
        left = count_of(sum(counts), "band")
        console.complain(f"{name}: {left} not run yet; `hopflow run {name}` runs them, then call this again.")
