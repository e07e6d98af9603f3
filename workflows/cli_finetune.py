"""The command that fine-tunes a MACE model on bands and other frames with energies and forces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .cli_learning import PANEL, Config, told

if TYPE_CHECKING:
    from ..learning.finetuning import Foundation
    from ..potentials.mace import MacePotential
    from .band_benchmark import Selection
    from .finetuning_config import BandComparison, FineTuning
    from .path_bands import BandAnswer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=PANEL)(finetune)


def finetune(
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Fine-tune a MACE potential, and judge it before and after; interrupted, it goes on where it stood.

    Materials of the test split are never learned from. The model is used by the line that is printed at the end,
    wherever a potential is named.
    """
    from .finetuning_config import read_fine_tuning

    chosen = read_fine_tuning(config)
    console.check_output_file(chosen.output / "metrics.json")
    with console.quiet_stdout(), told("fine-tuning") as say:
        document = run_fine_tuning(config, chosen, say)
    if as_json:
        console.print_json(document)
        return
    say_result(chosen.output, document)


def run_fine_tuning(path: Path, chosen: FineTuning, say: Callable[[str], None]) -> dict[str, Any]:
    """All that the command does.

    Parameters
    ----------
    path
        The configuration's file, for messages.
    chosen
        What it says, with absolute paths.
    say
        Called with one line at each step.

    Returns
    -------
    dict
        See :func:`..learning.finetuning.fine_tune`; with ``benchmark`` where it was asked for.

    Raises
    ------
    HopflowError
        The data, the foundation model or the output folder cannot be used, or the training failed.
    """
    from ..learning.finetuning import fine_tune, foundation_energies_eV
    from ..potentials.runtime import resolve_device
    from .finetuning_config import find_foundation, read_data

    # what is wrong with the benchmark is said before hours go into the training
    bands = None if chosen.benchmark is None else chosen_bands(path, chosen.benchmark)
    foundation = find_foundation(path, chosen)
    foundation_energies_eV(foundation.file)  # says in a sentence what is wrong with a file
    device = resolve_device(chosen.device)

    @lru_cache(maxsize=3)
    def load(file: Path) -> MacePotential:
        return model_potential(file, foundation, device)

    data, replayed = read_data(path, chosen, load(foundation.file).elements)
    if refused := data.left_out.sentence():
        say(refused)
    facts = {"citation": chosen.citation, "licence": chosen.licence}
    settings = chosen.training(device)
    document = fine_tune(data, foundation, settings, load, chosen.output, replayed, facts, say)
    if bands is not None:
        document["benchmark"] = compare_bands(*bands, chosen.output, foundation, load)
    return document


def model_potential(file: Path, foundation: Foundation, device: str) -> MacePotential:
    """A model file as a potential in double precision."""
    from ..potentials.entries import PotentialEntry, WeightFile
    from ..potentials.mace import MacePotential
    from ..potentials.weights import sha256_of

    name = foundation.name if file == foundation.file else "fine-tuned"
    entry = PotentialEntry(
        name=name,
        family="mace",
        description=name,
        method=f"MACE model {file.name}",
        licence="",
        citation="",
        files=(WeightFile(file.name, sha256_of(file), file.stat().st_size),),
        other_names=(),
        upstream=(),
        packages=(),
        default_dtype="float64",
        reference_energy_eV_per_atom=float("nan"),
    )
    return MacePotential(entry, file, device=device, dtype="float64")


def chosen_bands(path: Path, benchmark: BandComparison) -> tuple[Selection, list[dict[str, str]]]:
    """Paths of known barriers that both models are judged by, and what is left out of them.

    Raises
    ------
    SpecificationError
        The paths cannot be read, or none is left.
    """
    from ..transport.errors import HopflowError
    from .band_benchmark import select_paths
    from .reference_paths import read_references
    from .spec import SpecificationError

    try:
        paths, left_out = read_references(benchmark.paths)
    except (HopflowError, OSError) as error:
        raise SpecificationError(f"{path}: benchmark: {error}") from error
    selection = select_paths(paths, benchmark.max_atoms, benchmark.limit, benchmark.seed)
    if not selection.paths:
        raise SpecificationError(f"{path}: benchmark: no path of {benchmark.paths} is left to run.")
    return selection, left_out


def compare_bands(
    selection: Selection,
    left_out: Sequence[dict[str, str]],
    output: Path,
    foundation: Foundation,
    load: Callable[[Path], MacePotential],
) -> dict[str, Any]:
    """Bands of known barriers by the foundation model and by what was made of it; written to ``output/benchmark``."""
    from ..learning.finetuning import MODEL
    from ..learning.path_rows import PathRow
    from ..makers.settings import PathBandSettings
    from .band_benchmark import run_benchmark, write_benchmark
    from .cli_bands import collect_answers
    from .path_bands import BandJob, answer_bands

    files = {foundation.name: foundation.file, "fine-tuned": output / MODEL}
    folder = output / "benchmark"

    def run(name: str, rows: Sequence[dict[str, Any]], bands: Path) -> list[BandAnswer]:
        potential = load(files[name])
        job = BandJob(PathBandSettings(), output / "training" / "bands", bands, lambda: potential)
        entries = (PathRow(row["path_id"], row, None) for row in rows)
        return collect_answers(answer_bands(entries, job), name)

    document = run_benchmark(selection, list(files), run, folder / "bands", left_out)
    write_benchmark(selection, document, folder)
    return document


def say_result(output: Path, document: dict[str, Any]) -> None:
    """Print the errors before and after, what was written, and how the model is used."""
    from rich.table import Table

    from ..learning.finetuning import CARD, METRICS, MODEL
    from ..learning.finetuning_evaluation import COLUMNS, error_table
    from .band_benchmark import benchmark_markdown

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, name in enumerate(("split", "", *COLUMNS.values())):
        table.add_column(name, no_wrap=True, justify="left" if number < 2 else "right")
    for row in error_table(document["before"], document["after"]):
        table.add_row(*row)
    console.show(table)
    if "benchmark" in document:
        console.say(benchmark_markdown(document["benchmark"]))
    for what, file in (("model", MODEL), ("model card", CARD), ("metrics", METRICS)):
        console.say(f"{what}: {output / file}")
    console.say(f"potential: {document['potential']}")
