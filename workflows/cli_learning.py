"""Commands that build data sets, train networks on them, and judge them."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .cli_stages import Files, Ion

if TYPE_CHECKING:
    from rich.table import Table

PANEL = "Networks that learn"
_STEPS = re.compile(r"\b(\d+) of (\d+)\b")
_RATIOS = {
    "r2": "R²",
    "r2_log": "R² of log",
    "mae_eV": "MAE, eV",
    "spearman": "Spearman",
    "precision": "precision",
    "recall": "recall",
}

dataset = typer.Typer(help="Data sets that networks learn from.", no_args_is_help=True)
train = typer.Typer(help="Train networks.", no_args_is_help=True)
evaluate = typer.Typer(help="Compare networks on repeated splits of a data set.", no_args_is_help=True)

Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Config = Annotated[Path, typer.Argument(help="YAML file.", metavar="CONFIG", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the groups to the command line."""
    for name, group in (("dataset", dataset), ("train", train), ("evaluate", evaluate)):
        app.add_typer(group, name=name, rich_help_panel=PANEL)


@dataset.command("interstitial")
def build_interstitial(
    files: Files,
    output: Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)],
    ion: Ion = "Li",
    spacing: Annotated[float, typer.Option(min=0.05, max=2.0, help="Grid spacing of the barriers (Angstrom).")] = 0.25,
    max_atoms: Annotated[int, typer.Option(min=0, help="Leave out larger primitive cells; 0 leaves out none.")] = 200,
    merge: Annotated[float, typer.Option(min=0, max=2.9, help="Merge voids closer than this (Angstrom).")] = 0.0,
    workers: Workers = 1,
    limit: Annotated[int, typer.Option(min=0, help="Take a random sample of so many structures; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the order, and so of the sample.")] = 0,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Structures of one file of the set; an interruption loses those in work.")
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Interstitial graphs of structures with their bond-valence barriers; interrupted, it goes on where it stood."""
    from .spec import check_ion

    # Every worker is a process; threads of linear algebra would get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        check_ion(ion)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for file in files:
        if file.is_dir():
            raise console.WrongUse(f"{file} is a folder; name the files in it, for instance {file}/*.cif.")
        if not file.exists():
            raise console.WrongUse(f"There is no file {file}; check the path.")
    console.check_output_file(output / "manifest.json", files)

    from ..learning.interstitial_dataset import DatasetSettings, build_dataset
    from ..learning.interstitial_graphs import InterstitialGraphSettings
    from ..transport.bvse import BondValenceSettings
    from ..transport.interstitial_network import InterstitialNetworkSettings
    from .learning_intake import DrawnStructures

    settings = DatasetSettings(
        ion=ion,
        graph=InterstitialGraphSettings(network=InterstitialNetworkSettings(merge_close_A=merge)),
        bond_valence=BondValenceSettings(spacing_A=spacing),
        max_atoms=max_atoms or None,
    )
    with console.quiet_stdout():
        with console.at_work("reading structures"):
            structures = DrawnStructures(files, seed, limit)
        try:
            with told("building") as say:
                manifest = build_dataset(structures, output, settings, say, shard_size, workers, len(structures))
        except ValueError as error:
            raise console.WrongUse(str(error)) from error
    summary = _dataset_summary(manifest, output)
    if as_json:
        console.print_json(summary)
    else:
        _say_dataset(summary)
    if not manifest["crystals"]:
        console.complain("No structure has an interstitial graph, so the data set is empty.")
        raise typer.Exit(1)


@train.command("interstitial")
def train_interstitial(config: Config, workers: Workers = 1) -> None:
    """Train the network that predicts barriers from voids and bottlenecks; interrupted, it goes on where it stood.

    First each anion but oxygen is left out of a training in turn, which says how wrong predictions for unknown anions
    are. Then the members of the ensemble are trained, each without the chemical systems of one fold, and judged there.
    """
    from .learning_configs import InterstitialTraining, check_dataset, read_config

    chosen = read_config(config, InterstitialTraining, "training file")
    console.check_output_file(chosen.output / "interstitial_network.pt")
    with console.at_work("reading the data set"):
        check_dataset(config, chosen.dataset, {"chemical_system": chosen.folds, "anion": 1}, 1, chosen.seed)

    from ..learning.interstitial_ensembles import train_ensemble

    with console.quiet_stdout(), told("training") as say:
        info = train_ensemble(chosen.dataset, chosen.settings(), chosen.output, workers, say)
    console.show(_member_table(info["metrics"]))
    console.say(f"checkpoint: {chosen.output / 'interstitial_network.pt'}")
    console.say(f"model card: {chosen.output / 'interstitial_network.md'}")
    console.say(f"metrics: {chosen.output / 'interstitial_network.json'}")


@evaluate.command("interstitial")
def evaluate_interstitial(
    config: Config,
    workers: Workers = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train and judge networks on repeated splits; every result is kept, and a second call computes what is missing."""
    from .learning_configs import InterstitialEvaluation, check_dataset, read_config

    chosen = read_config(config, InterstitialEvaluation, "evaluation file")
    console.check_output_file(chosen.output / "metrics.json")
    parts = {split: 1 if split == "anion" else 10 for split in chosen.splits}
    with console.at_work("reading the data set"):
        crystals = len(check_dataset(config, chosen.dataset, parts, chosen.repeats, chosen.seed).crystals)

    from ..learning.interstitial_evaluation import evaluate_networks, markdown_table, score_table
    from .learning_figures import parity_figure

    settings = chosen.settings()
    with console.quiet_stdout(), told("evaluating") as say:
        results = evaluate_networks(chosen.dataset, settings, chosen.output / "results", workers, say)
    document: dict[str, Any] = {
        "dataset": str(chosen.dataset),
        "crystals": crystals,
        "settings": chosen.model_dump(exclude={"dataset", "output"}),
        "rows": score_table(results),
    }
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "metrics.json").write_text(console.json_text(document) + "\n")
    (chosen.output / "table.md").write_text(markdown_table(results) + "\n")
    shown = "random" if "random" in chosen.splits else chosen.splits[0]
    first = [result for result in results if result["split"] == shown and result["repeat"] == 0]
    parity_figure(first, chosen.threshold_eV, chosen.output / "parity.png")
    if as_json:
        console.print_json(document)
        return
    console.show(_score_table(document["rows"]))
    console.say(f"metrics: {chosen.output / 'metrics.json'}")
    console.say(f"table: {chosen.output / 'table.md'}")
    console.say(f"figure: {chosen.output / 'parity.png'}")


@contextmanager
def told(what: str) -> Iterator[Callable[[str], None]]:
    """What takes the lines of a long calculation: a bar with the last of them on a terminal, elsewhere all of them.

    Both go to the error stream, because standard output is for results.
    """
    if not sys.stderr.isatty():
        started = time.perf_counter()

        def say(line: str) -> None:
            sys.stderr.write(f"[{time.perf_counter() - started:6.0f} s] {line}\n")
            sys.stderr.flush()

        yield say
        return
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn
    from rich.text import Text

    class Bar(Progress):
        """A bar, and below it the last line, which may be longer than what the bar leaves of the terminal."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield Text(self.tasks[0].description if self.tasks else "", no_wrap=True, overflow="ellipsis")

    with Bar(
        BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(what, total=1.0)

        def show(line: str) -> None:
            bar.update(task, description=line, completed=share_done(line))

        yield show


def share_done(line: str) -> float | None:
    """How much of all is done by a line like ``member 2 of 5, epoch 3 of 20: ...``, here 1.15 fifths.

    Returns
    -------
    float or None
        From 0 to 1; None where the line does not say.
    """
    share: float | None = None
    for done, total in reversed([(int(done), int(total)) for done, total in _STEPS.findall(line)]):
        if total:
            share = (done if share is None else done - 1 + share) / total
    return None if share is None else min(max(share, 0.0), 1.0)


def _dataset_summary(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    left_out = ("failures", "shards", "elements", "global_features")
    return {
        "folder": str(folder),
        "bytes": sum((folder / shard["file"]).stat().st_size for shard in manifest["shards"]),
        **{name: value for name, value in manifest.items() if name not in left_out},
    }


def _say_dataset(summary: dict[str, Any]) -> None:
    number = max(1, summary["crystals"])
    graph_ms, barrier_ms = (1e3 * summary[name] / number for name in ("graph_seconds", "barrier_seconds"))
    failed, unlabelled = summary["failures_by_reason"], summary["unlabelled_by_reason"]
    console.say(
        f"{summary['crystals']} graphs, {summary['labelled']} with a barrier, of which "
        f"{summary['without_path']} without a path below the energy ceiling; {graph_ms:.0f} ms a graph and "
        f"{barrier_ms:.0f} ms a barrier; {summary['bytes'] / 1e6:.1f} MB in {summary['folder']}"
    )
    for what, counts in (("without a graph", failed), ("without a barrier", unlabelled)):
        if counts:
            console.say(f"{what}: " + ", ".join(f"{count} {reason}" for reason, count in counts.items()))


def _member_table(metrics: dict[str, dict[str, Any]]) -> Table:
    """Metrics of each barrier, as the members predict it for chemical systems that they have not seen."""
    lines = [
        (name.upper(), f"{values['crystals']:.0f}", *(_number(values[ratio]) for ratio in _RATIOS))
        for name, values in metrics.items()
    ]
    return _table(("barrier", "crystals"), lines)


def _score_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Mean and spread over the splits."""
    lines = [
        (
            row["split"],
            row["network"],
            str(row["repeats"]),
            *(" ± ".join(map(_number, row[ratio])).replace("- ± -", "-") for ratio in _RATIOS),
        )
        for row in rows
    ]
    return _table(("split", "network", "splits"), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in (*head, *_RATIOS.values()):
        table.add_column(name, no_wrap=True, justify="left" if name in ("split", "network", "barrier") else "right")
    for line in lines:
        table.add_row(*line)
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
