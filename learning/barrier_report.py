"""What a comparison of barrier learners says: tables for programs and people, from the stored answers of each fold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .barrier_learners import to_barrier, to_target
from .barrier_scenarios import SCENARIOS, path_distinction, rows_of_scenario, scenario_metrics
from .ensembles import CARD_COLUMNS, number_text, without_nan
from .evaluation import bootstrap_intervals, repeated_metrics
from .interval_calibration import METHODS, calibrated_sigma, coverage
from .learner_registry import barrier_learner

if TYPE_CHECKING:
    from .barrier_evaluation import DealtRows, FoldTask

PUBLISHED = "mace_neb"
"""The predictor that is the column ``barrier_mace_relax_eV`` as it stands in the table."""

Results = dict["FoldTask", dict[str, Any]]


def report(dealt: DealtRows, results: Results) -> dict[str, Any]:
    """Everything that is published of a comparison.

    Parameters
    ----------
    dealt
        The rows and how they are dealt.
    results
        Stored result of each task.

    Returns
    -------
    dict
        ``protocol`` and counts; ``learners`` (description and settings of each); ``table`` (see :func:`learner_table`);
        ``coverage`` of each learner (see :func:`.interval_calibration.coverage`); ``rows_above``; ``distinction`` (see
        :func:`.barrier_scenarios.path_distinction`); ``scenarios``; ``learning_curve``; ``seconds`` of each learner;
        ``predictions`` of each row: barrier and calibrated sigma by each learner in each repeat. None stands where a
        number has no meaning.
    """
    settings, true_eV = dealt.settings, dealt.barrier_eV
    usual = true_eV <= settings.outlier_eV
    folds = np.stack([dealt.folds("hosts", repeat) for repeat in range(settings.repeats)])
    answers = {name: gathered(dealt, results, name) for name in settings.learners}
    barriers_eV = {name: to_barrier(mean, sigma)[0] for name, (mean, sigma) in answers.items()}
    document = {
        "protocol": _protocol(dealt),
        "rows": len(dealt.rows),
        "hosts": len(set(dealt.hosts)),
        "crystals": len(set(dealt.crystals)),
        "outlier_eV": settings.outlier_eV,
        "learners": {
            name: {
                "description": barrier_learner(name).description,
                "settings": barrier_learner(name).create().settings(),
            }
            for name in settings.learners
        },
        "table": learner_table(dealt, barriers_eV, folds),
        "coverage": {name: coverage(true_eV, *both, folds, usual, dealt.learned) for name, both in answers.items()},
        "rows_above": _rows_above(dealt, barriers_eV),
        "distinction": _distinction(dealt, barriers_eV, usual),
        "scenarios": _scenarios(dealt, results, barriers_eV, usual) if settings.scenarios else [],
        "learning_curve": list(_learning_curve(dealt, results, usual)),
        "seconds": {
            name: float(sum(result["seconds"] for task, result in results.items() if task.learner == name))
            for name in dict.fromkeys(task.learner for task in results)
        },
        "predictions": _predictions(dealt, answers, folds),
    }
    return dict(without_nan(document))


def published_eV(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """``barrier_mace_relax_eV`` of each row, NaN where it has none, shape (rows,)."""
    values = [row.get("barrier_mace_relax_eV") for row in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def learner_table(dealt: DealtRows, barriers_eV: dict[str, np.ndarray], folds: np.ndarray) -> list[dict[str, Any]]:
    """Every learner beside what it has to beat, on the same rows.

    Parameters
    ----------
    dealt
        The rows.
    barriers_eV
        Out-of-fold barriers of each learner, shape (repeats, rows).
    folds
        The fold that each row was held out in, shape (repeats, rows).

    Returns
    -------
    list of dict
        ``predictor`` (a learner; ``median`` of the training folds; ``mace_neb``, the published column; ``mean of
        LEARNER and mace_neb``, the plain mean of both with nothing fitted), ``rows_of`` (``usual``, labels up to
        ``outlier_eV``; ``usual_with_mace``, those that have the column; ``all``), ``metrics`` (mean over the repeats)
        and ``interval_90`` of each over hosts.
    """
    true_eV, settings, hosts = dealt.barrier_eV, dealt.settings, np.asarray(dealt.hosts)
    mace_eV = published_eV(dealt.rows)
    usual, has_mace = true_eV <= settings.outlier_eV, np.isfinite(mace_eV)
    medians = [[float(np.median(true_eV[(fold != own) & dealt.learned])) for own in fold] for fold in folds]
    predictors = {**barriers_eV, "median": np.array(medians)}
    with_mace = {PUBLISHED: mace_eV[None, :]}
    with_mace |= {
        f"mean of {name} and {PUBLISHED}": 0.5 * (found_eV + mace_eV)
        for name, found_eV in barriers_eV.items()
        if name != "median"
    }
    sets = {"usual": usual, "usual_with_mace": usual & has_mace, "all": np.ones(len(usual), dtype=bool)}
    return [
        {"predictor": name, "rows_of": rows_of, **_judged(true_eV, found_eV, chosen, hosts, settings.samples)}
        for rows_of, chosen in sets.items()
        if chosen.any()
        for name, found_eV in (predictors | (with_mace if has_mace[chosen].all() else {})).items()
    ]


def _judged(
    true_eV: np.ndarray, found_eV: np.ndarray, chosen: np.ndarray, hosts: np.ndarray, samples: int
) -> dict[str, Any]:
    pair = true_eV[chosen], found_eV[:, chosen]
    intervals = bootstrap_intervals(*pair, hosts[chosen].tolist(), samples=samples)
    return {"metrics": repeated_metrics(*pair), "interval_90": intervals}


def _protocol(dealt: DealtRows) -> str:
    settings = dealt.settings
    left = f"; judged, but never learned from: {', '.join(settings.only_judged)}" if settings.only_judged else ""
    return (
        f"{settings.folds}-fold cross-validation grouped by host compound, {settings.repeats} times with other folds; "
        "metrics are means over the repeats, intervals hold 90 % of resampled sets of hosts; the width of the "
        f"intervals of a fold is set by the residuals of the other folds{left}"
    )


def gathered(
    dealt: DealtRows, results: Results, learner: str, kind: str = "hosts", size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and raw sigma of each row in each repeat, both of shape (repeats, rows), on the learned scale."""
    shape = dealt.settings.repeats, len(dealt.rows)
    mean, sigma = np.zeros(shape), np.ones(shape)
    for task, result in results.items():
        if (task.learner, task.dealt, task.size) == (learner, kind, size):
            mean[task.repeat, result["held_out"]] = result["mean"]
            sigma[task.repeat, result["held_out"]] = result["sigma"]
    return mean, sigma


def _rows_above(dealt: DealtRows, barriers_eV: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows that the usual ones leave out, with the mean answer of each learner."""
    mace_eV = published_eV(dealt.rows)
    return [
        {
            "path_id": dealt.rows[i]["path_id"],
            "true_eV": float(dealt.barrier_eV[i]),
            f"{PUBLISHED}_eV": float(mace_eV[i]),
            "answers_eV": {name: float(found_eV[:, i].mean()) for name, found_eV in barriers_eV.items()},
        }
        for i in np.flatnonzero(dealt.barrier_eV > dealt.settings.outlier_eV).tolist()
    ]


def _distinction(dealt: DealtRows, barriers_eV: dict[str, np.ndarray], usual: np.ndarray) -> list[dict[str, Any]]:
    predictors = {**barriers_eV, PUBLISHED: published_eV(dealt.rows)[None, :]}
    crystals, hosts = np.asarray(dealt.crystals)[usual].tolist(), np.asarray(dealt.hosts)[usual].tolist()
    true_eV, samples = dealt.barrier_eV[usual], dealt.settings.samples
    return [
        {"predictor": name, **path_distinction(true_eV, found_eV[:, usual], crystals, hosts, samples)}
        for name, found_eV in predictors.items()
        if np.isfinite(found_eV).any()
    ]


def _scenarios(
    dealt: DealtRows, results: Results, new_host_eV: dict[str, np.ndarray], usual: np.ndarray
) -> list[dict[str, Any]]:
    """Each learner in each scenario, and on the same rows when it knows nothing of their hosts."""
    settings, found = dealt.settings, []
    for scenario, kind in SCENARIOS.items():
        folds = [dealt.folds(kind, repeat) for repeat in range(settings.repeats)]
        chosen = np.stack([rows_of_scenario(scenario, dealt.hosts, dealt.crystals, f, dealt.learned) for f in folds])
        chosen &= usual
        for name in settings.learners:
            known_eV = to_barrier(*gathered(dealt, results, name, kind))[0]
            judged = [
                scenario_metrics(dealt.barrier_eV, each, chosen, dealt.hosts, settings.samples)
                for each in (known_eV, new_host_eV[name])
            ]
            if judged[0]:
                entry = {"scenario": scenario, "predictor": name, **judged[0]}
                found.append({**entry, "mae_eV_as_new_host": judged[1]["mae_eV"]})
    return found


def _learning_curve(dealt: DealtRows, results: Results, usual: np.ndarray) -> Iterable[dict[str, Any]]:
    settings, hosts = dealt.settings, np.asarray(dealt.hosts)
    for name in settings.learners_of_curve:
        for size in (*settings.sizes, None):
            found_eV = to_barrier(*gathered(dealt, results, name, size=size))[0]
            learned = [
                result["train"]
                for task, result in results.items()
                if (task.learner, task.dealt, task.size) == (name, "hosts", size)
            ]
            judged = _judged(dealt.barrier_eV, found_eV, usual, hosts, settings.samples)
            yield {"predictor": name, "training_paths": float(np.mean(learned)), **judged}


def _predictions(
    dealt: DealtRows, answers: dict[str, tuple[np.ndarray, np.ndarray]], folds: np.ndarray
) -> list[dict[str, Any]]:
    target = to_target(dealt.barrier_eV)
    sets_width = dealt.learned & (dealt.barrier_eV <= dealt.settings.outlier_eV)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (mean, sigma) in answers.items():
        scaled = np.stack(
            [calibrated_sigma(target, *each, sets_width) for each in zip(mean, sigma, folds, strict=True)]
        )
        found[name] = to_barrier(mean, scaled)
    return [
        {
            "path_id": row["path_id"],
            "true_eV": float(dealt.barrier_eV[i]),
            "predicted_eV": {name: barrier_eV[:, i].tolist() for name, (barrier_eV, _) in found.items()},
            "sigma_eV": {name: sigma_eV[:, i].tolist() for name, (_, sigma_eV) in found.items()},
        }
        for i, row in enumerate(dealt.rows)
    ]


def table_markdown(document: dict[str, Any]) -> str:
    """The comparison in Markdown: each metric with its 90 % interval over hosts, and everything that goes with it."""
    parts = [
        _markdown(
            ["predictor", "rows of", *CARD_COLUMNS],
            [
                [entry["predictor"], entry["rows_of"], *(_with_interval(entry, name) for name in CARD_COLUMNS)]
                for entry in document["table"]
            ],
        )
    ]
    levels = [f"{level:.0%}".replace("%", " %") for level in (0.5, 0.8, 0.9)]
    lines = []
    for name, methods in document["coverage"].items():
        for method in METHODS:
            for scale in ("log", "eV"):
                shares = [f"{share:.1%}" for share in methods[method][scale].values()]
                widths = [number_text(width) for width in methods[method]["width_eV"].values()]
                lines.append([name, method, scale, *shares, *(widths if scale == "log" else ["-"] * len(widths))])
    widths = [f"median width at {level}, eV" for level in levels]
    parts.append(_markdown(["intervals of", "width by", "scale", *levels, *widths], lines))
    if document["rows_above"]:
        names = list(document["learners"])
        parts.append(
            _markdown(
                [f"row above {document['outlier_eV']:g} eV", "label, eV", f"{PUBLISHED}, eV", *names],
                [
                    [
                        str(row["path_id"]),
                        *(number_text(row[key]) for key in ("true_eV", f"{PUBLISHED}_eV")),
                        *(number_text(row["answers_eV"][name]) for name in names),
                    ]
                    for row in document["rows_above"]
                ],
            )
        )
    parts += _further_markdown(document)
    return "\n\n".join(parts)


def _further_markdown(document: dict[str, Any]) -> list[str]:
    """Paths of one crystal, scenarios and learning curve."""
    parts = []
    shares = ["told_apart", "ordered", "indistinct_systems", "error_above_0.1_eV"]
    lines = [
        [entry["predictor"], str(entry["pairs"]), str(entry["systems"]), *(f"{entry[name]:.1%}" for name in shares)]
        for entry in document["distinction"]
        if entry["pairs"]
    ]
    if lines:
        parts.append(_markdown(["paths of one crystal", "pairs", "systems", *shares], lines))
    columns = ["mae_eV", "median_error_eV", "rmse_eV", "r2", "mae_eV_as_new_host"]
    lines = [
        [
            entry["scenario"],
            entry["predictor"],
            f"{entry['rows']:.0f}",
            *(number_text(entry[name]) for name in columns),
            " to ".join(number_text(end) for end in entry["interval_90"]),
        ]
        for entry in document["scenarios"]
    ]
    if lines:
        parts.append(_markdown(["scenario", "predictor", "rows", *columns, "interval of mae_eV"], lines))
    if document["learning_curve"]:
        head = ["mae_eV", "r2", "spearman"]
        lines = [
            [entry["predictor"], f"{entry['training_paths']:.0f}", *(_with_interval(entry, name) for name in head)]
            for entry in document["learning_curve"]
        ]
        parts.append(_markdown(["predictor", "training paths", *head], lines))
    return parts


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _with_interval(entry: dict[str, Any], name: str) -> str:
    value = entry["metrics"][name]
    if name == "rows":
        return f"{value:.0f}"
    if value is None:
        return "-"
    return number_text(value) + " (" + " to ".join(number_text(end) for end in entry["interval_90"][name]) + ")"
