"""Commands around the models that predict the barrier of a migration path: ask them, train them, judge them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .cli_learning import PANEL, Config, Workers, evaluate, told, train

if TYPE_CHECKING:
    from rich.table import Table

    from ..learning.barrier_models import BarrierAnswer, BarrierModel
    from ..transport.energies import SitePotential
    from .learning_configs import BarrierTraining

_COLUMNS = {
    "mae_eV": "MAE, eV",
    "rmse_eV": "RMSE, eV",
    "r2": "R²",
    "spearman": "Spearman",
    "accuracy_0.65_eV": "right at 0.65",
    "precision_0.65_eV": "precision",
    "recall_0.65_eV": "recall",
    "accuracy_0.50_eV": "right at 0.50",
    "precision_0.50_eV": "precision",
    "recall_0.50_eV": "recall",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the command line; `train barrier` and `evaluate barrier` join the groups that are there."""
    app.command("predict-paths", rich_help_panel=PANEL)(predict_paths)


def predict_paths(
    file: Annotated[
        Path, typer.Argument(help="Path table: JSON lines, also gzipped.", metavar="FILE", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Which of the barrier models answers.")] = "fast",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a path.")] = False,
) -> None:
    """Barriers of migration paths with their standard deviations, one answer a row, in the order of the rows."""
    from ..learning.barrier_models import answer_rows, barrier_model
    from ..learning.path_rows import PathFileError, iterate_path_rows

    try:
        chosen = barrier_model(model)
    except ValueError as error:
        raise console.WrongUse(str(error)) from error
    with console.quiet_stdout(), console.at_work("loading the model"):
        potential = _potential_of(chosen)
    # one at a time where each takes seconds, so that those that are done are seen
    size = 64 if potential is None else 1
    batches = answer_rows(iterate_path_rows(file), chosen, size, potential)
    answers: list[BarrierAnswer] = []
    while True:
        try:
            with console.quiet_stdout(), console.at_work(f"{file}: {len(answers)} paths answered"):
                batch = next(batches, None)
        except PathFileError as error:
            raise console.WrongUse(str(error)) from error
        if batch is None:
            break
        answers += batch
        if as_json:
            for answer in batch:
                console.print_json(answer.document(), indent=None)
    answered = sum(answer.error is None for answer in answers)
    if answers and not as_json:
        console.show(_answer_table(answers))
        console.say(f"{answered} of {len(answers)} paths answered by the model {chosen.name}")
    console.complain_of_table(
        file, [answer.path_id for answer in answers], answered, f"No path of {file} could be answered."
    )
    if not answered:
        raise typer.Exit(1)


@train.command("barrier")
def train_barrier(config: Config, workers: Workers = 1) -> None:
    """Train the models that predict barriers of migration paths; interrupted, it goes on where it stood.

    Paths are dealt to folds by host compound; models are judged by the folds that they have not seen.
    """
    from .learning_configs import BarrierTraining, check_paths, read_config

    chosen = read_config(config, BarrierTraining, "training file")
    console.check_output_file(chosen.output / "metrics.json", [chosen.paths])
    with console.at_work("reading the paths"):
        rows, left_out = check_paths(config, chosen)
    _complain_of(left_out)
    if chosen.model == "fast":
        checkpoint = _train_evidence_models(rows, chosen, workers, left_out)
    else:
        checkpoint = _train_path_network(rows, chosen, left_out)
    console.say(f"checkpoint: {checkpoint}")
    console.say(f"model card: {checkpoint.with_suffix('.md')}")
    console.say(f"metrics: {chosen.output / 'metrics.json'}")
    console.say(f"figure: {chosen.output / FIGURE_OF_MODEL[chosen.model]}")


FIGURE_OF_MODEL = {"fast": "parity.png", "path-network": "learning_curve.png"}
"""What `train barrier` draws: labels and held-out answers, or the loss over epochs."""


def _train_evidence_models(
    rows: Sequence[dict[str, Any]], chosen: BarrierTraining, workers: int, left_out: Sequence[dict[str, str]]
) -> Path:
    from ..learning.evidence_training import CHECKPOINT, train_evidence_models
    from .learning_figures import barrier_parity_figure

    _probe(rows, chosen.output, workers)
    with console.quiet_stdout(), told("training") as say:
        found = train_evidence_models(rows, chosen.evidence(), chosen.output, workers, say, left_out)
    barrier_parity_figure(rows, found, chosen.output / FIGURE_OF_MODEL[chosen.model])
    console.show(_metrics_table([(entry["predictor"], entry["rows_of"], entry["metrics"]) for entry in found["table"]]))
    for name, held in found["sigma_coverage"].items():
        shares = ", ".join(f"{float(level):.0%}: {share:.1%}" for level, share in held.items())
        console.say(f"labels within sigma's normal intervals of {name}: {shares}")
    return chosen.output / CHECKPOINT


def _train_path_network(
    rows: Sequence[dict[str, Any]], chosen: BarrierTraining, left_out: Sequence[dict[str, str]]
) -> Path:
    from ..learning.barrier_training import CHECKPOINT, train_barrier_model
    from .learning_figures import loss_figure

    with console.quiet_stdout(), told("training") as say:
        found = train_barrier_model(rows, chosen.training(), chosen.output, chosen.seed, say, left_out)
    loss_figure(found["losses"], chosen.members_per_fold, chosen.output / FIGURE_OF_MODEL[chosen.model])
    console.show(_metrics_table([(*name.split("/"), values) for name, values in found["table"].items()]))
    return chosen.output / CHECKPOINT


def _probe(rows: Sequence[dict[str, Any]], output: Path, workers: int) -> None:
    """Have the potential probe the paths that are not probed yet; say which it could not."""
    from ..learning.forest_barriers import ForestLearner
    from .path_probing import probe_table

    with console.quiet_stdout(), told("probing") as say:
        failed = probe_table(rows, ForestLearner().probe, output / "features", workers, say)
    for row in failed:
        console.complain(f"not probed: {row['error']}")


@evaluate.command("barrier")
def evaluate_barrier(
    config: Config,
    workers: Workers = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Cross-validate learners of barriers by host compounds; folds are kept, a second call computes what is missing."""
    from .learning_configs import BarrierEvaluation, check_paths, read_config

    chosen = read_config(config, BarrierEvaluation, "evaluation file")
    console.check_output_file(chosen.output / "metrics.json", [chosen.paths])
    with console.at_work("reading the paths"):
        rows, left_out = check_paths(config, chosen)
    _complain_of(left_out)

    from ..learning.barrier_evaluation import evaluate_barrier_learners
    from ..learning.barrier_report import table_markdown
    from ..learning.forest_barriers import PROBING_LEARNERS
    from .learning_figures import barrier_parity_figure, coverage_figure, size_figure

    if PROBING_LEARNERS & {*chosen.learners, *chosen.curve_learners}:
        _probe(rows, chosen.output, workers)
    with console.quiet_stdout(), told("evaluating") as say:
        found = evaluate_barrier_learners(rows, chosen.settings(), chosen.output, workers, say)
    document: dict[str, Any] = {
        "paths": str(chosen.paths),
        "settings": chosen.model_dump(exclude={"paths", "output"}),
        "left_out": left_out,
        **found,
    }
    (chosen.output / "metrics.json").write_text(console.json_text(document) + "\n")
    (chosen.output / "table.md").write_text(table_markdown(document) + "\n")
    barrier_parity_figure(rows, document, chosen.output / "parity.png")
    coverage_figure(document["coverage"], chosen.output / "coverage.png")
    figures = ["parity.png", "coverage.png"]
    if document["learning_curve"]:
        size_figure(document["learning_curve"], chosen.output / "learning_curve.png")
        figures.append("learning_curve.png")
    if as_json:
        console.print_json(document)
        return
    console.show(
        _metrics_table([(entry["predictor"], entry["rows_of"], entry["metrics"]) for entry in document["table"]])
    )
    for name, methods in document["coverage"].items():
        method, held = next(iter(methods.items()))
        shares = ", ".join(f"{float(level):.0%}: {share:.1%}" for level, share in held["log"].items())
        console.say(f"labels inside the {method} intervals of {name}: {shares}")
    for entry in document["scenarios"]:
        console.say(
            f"scenario {entry['scenario']}, {entry['predictor']}: MAE {entry['mae_eV']:.3f} eV on {entry['rows']:.0f} "
            f"paths, {entry['mae_eV_as_new_host']:.3f} eV when nothing of their hosts is known"
        )
    for entry in document["distinction"]:
        if entry["pairs"]:
            console.say(
                f"{entry['pairs']} pairs of paths of one crystal, {entry['predictor']}: {entry['told_apart']:.1%} told "
                f"apart, {entry['ordered']:.1%} in the right order"
            )
    console.say(f"metrics: {chosen.output / 'metrics.json'}")
    console.say(f"table: {chosen.output / 'table.md'}")
    for name in figures:
        console.say(f"figure: {chosen.output / name}")


def _complain_of(left_out: Sequence[dict[str, str]]) -> None:
    """Say which rows nothing is learned from."""
    for row in left_out[:5]:
        console.complain(f"left out: {row['error']}")
    if len(left_out) > 5:
        console.complain(f"{len(left_out)} rows are left out; metrics.json names them all.")


def _potential_of(model: BarrierModel) -> SitePotential | None:
    """The potential that a model asks; where its weights are not to be had, none, and a word about it."""
    from ..learning.evidence_checkpoints import load_models
    from ..makers.probing import potential_of_model
    from ..transport.errors import WeightsError

    if model.asks_potential:
        # a checkpoint that is missing or damaged has no answer at all, and says so itself
        load_models(model.checkpoint)
    try:
        return potential_of_model(model)
    except WeightsError as error:
        console.complain(f"{error} The model {model.name} answers from the geometry of the paths alone.")
        return None


def _answer_table(answers: Sequence[BarrierAnswer]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("path", overflow="fold")
    table.add_column("barrier, eV", justify="right", no_wrap=True)
    table.add_column("± eV", justify="right", no_wrap=True)
    if any(answer.error or answer.note for answer in answers):
        table.add_column("note", overflow="fold")
    for answer in answers:
        numbers = ["-" if value is None else f"{value:.3f}" for value in (answer.barrier_eV, answer.sigma_eV)]
        notes = [Text(answer.error or answer.note or "")] if len(table.columns) > 3 else []
        table.add_row(Text(str(answer.path_id)), *numbers, *notes)
    return table


def _metrics_table(lines: Sequence[tuple[str, str, dict[str, Any]]]) -> Table:
    from rich.table import Table

    from ..learning.ensembles import number_text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("predictor", "rows of"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", *_COLUMNS.values()):
        table.add_column(name, justify="right")
    for predictor, rows_of, metrics in lines:
        table.add_row(
            predictor, rows_of, f"{metrics['rows']:.0f}", *(number_text(metrics[column]) for column in _COLUMNS)
        )
    return table
