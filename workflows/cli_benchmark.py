"""Commands that judge potentials against reference data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .cli_bands import band_job, collect_answers, path_band_settings
from .cli_stages import Settings

if TYPE_CHECKING:
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

    def run(name: str, rows: Sequence[dict[str, Any]], bands: Path) -> list[BandAnswer]:
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
    if not any(each["converged"] for each in document["converged"].values()):
        raise typer.Exit(1)
