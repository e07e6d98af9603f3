"""Training of the barrier models that ship: cross-validation, calibrated sigma, final fit, checkpoint and card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .barrier_evaluation import BarrierEvaluationSettings, DealtRows, FoldTask, computed_folds
from .barrier_learners import Progress
from .barrier_report import gathered, report, table_markdown
from .ensembles import without_nan
from .evidence_checkpoints import BarrierModels, save_models
from .forest_barriers import ForestLearner
from .interval_calibration import SigmaScale, coverage_of_scales, fitted_scale

CHECKPOINT = "barrier_models.npz"

MODEL_OF_KIND: dict[str, str] = {"geometry": "geometry", "probe": "fast", "band": "fused"}
"""The learner whose held-out answers judge each kind of evidence."""


@dataclass(frozen=True)
class EvidenceTrainingSettings:
    """How the models are judged; how they learn stands in :class:`.forest_barriers.ForestLearner`.

    Attributes
    ----------
    folds, repeats
        Of the cross-validation by host compound.
    only_judged
        Names of paths that are judged and never learned from.
    outlier_eV
        Rows above this are reported apart and do not set the width of intervals.
    seed
        Of folds and models.
    citation, licence
        Of the paths, for the model card.
    """

    folds: int = 5
    repeats: int = 3
    only_judged: tuple[str, ...] = ()
    outlier_eV: float = 4.0
    seed: int = 0
    citation: str = "not stated"
    licence: str = "not stated"

    def evaluation(self) -> BarrierEvaluationSettings:
        """The cross-validation."""
        return BarrierEvaluationSettings(
            learners=tuple(MODEL_OF_KIND.values()),
            folds=self.folds,
            repeats=self.repeats,
            only_judged=self.only_judged,
            outlier_eV=self.outlier_eV,
            seed=self.seed,
        )


def train_evidence_models(
    rows: Sequence[dict[str, Any]],
    settings: EvidenceTrainingSettings,
    output: Path,
    workers: int = 1,
    progress: Progress | None = None,
    left_out: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Cross-validate, calibrate, train on all rows and write everything that comes of it.

    Parameters
    ----------
    rows
        Path rows with ``barrier_dft_eV`` (and, if known, ``barrier_mace_relax_eV``).
    settings
        How they are judged.
    output
        Folder; ``features/probes`` holds the probes (see :func:`.band_probes.probe_rows`), ``results`` the folds. It
        receives the checkpoint, the same facts for programs (``.json``) and people (``.md``), and ``metrics.json``.
    workers
        Processes of the cross-validation.
    progress
        Called with one line after each fold.
    left_out
        Rows that could not be learned from, for ``metrics.json``.

    Returns
    -------
    dict
        The content of ``metrics.json``: that of :func:`.barrier_report.report`, and ``sigma_coverage`` of each model.
    """
    say = progress or (lambda _: None)
    dealt, results = computed_folds(rows, settings.evaluation(), output, workers, progress)
    usual = dealt.barrier_eV <= settings.outlier_eV
    learner = ForestLearner("band")
    say("training on all paths")
    items = learner.prepare(dealt.shown(learner), output / "features")
    learned = np.flatnonzero(dealt.learned).tolist()
    fitted = learner.fit(
        [items[i] for i in learned], dealt.barrier_eV[learned], [dealt.hosts[i] for i in learned], settings.seed
    )
    scales, held = {}, {}
    for kind in fitted.blends:
        scales[kind], held[kind] = _calibrated(dealt, results, MODEL_OF_KIND[kind], usual)
    say("drawing hosts for the intervals")
    found = {
        **report(dealt, results),
        "sigma_coverage": {MODEL_OF_KIND[kind]: shares for kind, shares in held.items()},
        "left_out": list(left_out),
    }
    models = BarrierModels(fitted, scales, learner.probe)
    probed = sum(item.probe is not None for item in items)
    facts = without_nan(
        {
            "data": {
                "citation": settings.citation,
                "licence": settings.licence,
                "rows": len(rows),
                "learned": len(learned),
                "probed": probed,
            },
            "elements_seen": {
                "ions": sorted({rows[i]["migrating_ion"] for i in learned}),
                "framework": sorted({symbol for i in learned for symbol in rows[i]["framework_species"]}),
            },
            "settings": learner.settings() | {"seed": settings.seed},
            "metrics": {key: found[key] for key in ("protocol", "hosts", "outlier_eV", "table", "sigma_coverage")},
        }
    )
    info = save_models(models, output / CHECKPOINT, facts)
    (output / CHECKPOINT).with_suffix(".md").write_text(evidence_card(info, table_markdown(found)))
    document: dict[str, Any] = without_nan({**found, "sha256": info["sha256"]})
    (output / "metrics.json").write_text(json.dumps(document, indent=1) + "\n")
    return document


def _calibrated(
    dealt: DealtRows, results: dict[FoldTask, dict[str, Any]], name: str, usual: np.ndarray
) -> tuple[SigmaScale, dict[str, float]]:
    """The scale from all held-out answers, and what scales from other folds would have held."""
    mean, spread = gathered(dealt, results, name)
    folds = np.stack([dealt.folds("hosts", repeat) for repeat in range(dealt.settings.repeats)])
    held = coverage_of_scales(dealt.barrier_eV, mean, spread, folds, usual, dealt.learned)
    fitted_to = usual & dealt.learned
    true_eV = np.tile(dealt.barrier_eV[fitted_to], len(mean))
    return fitted_scale(true_eV, mean[:, fitted_to].reshape(-1), spread[:, fitted_to].reshape(-1)), held


def evidence_card(info: dict[str, Any], table: str) -> str:
    """The model card of a checkpoint in Markdown, from the content of its JSON file and the table of the judgement."""
    metrics, data, settings = info["metrics"], info["data"], info["settings"]
    held = [
        f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares.values()) + " |"
        for name, shares in metrics["sigma_coverage"].items()
    ]
    return "\n".join(
        [
            "# Barrier models: migration barriers of single hops",
            "",
            f"SHA-256 `{info['sha256']}`. Models `geometry`, `fast` and `fused`:",
            f"blends of {settings['trees']['trees']} extremely randomised trees, {settings['trees']['boosted_trees']}",
            "boosted trees and, but for `geometry`, as many randomised trees on what a line through the potential's",
            "own estimates leaves; on columns that treat both ends of a path alike. `geometry` knows the path; `fast`",
            "also what the potential",
            f"`{info['probe']['potential']}` says of it in a probe of {info['probe']['steps']} relaxation steps;",
            "`fused` also a computed NEB barrier (`barrier_mace_relax_eV`). Target: log(barrier + 0.5 eV).",
            "",
            "## Data",
            "",
            f"{data['rows']} paths, {data['learned']} of them learned from, {data['probed']} probed.",
            f"Source: {data['citation']}.",
            f"Licence: {data['licence']}. Migrating ions: {', '.join(info['elements_seen']['ions'])}.",
            f"Framework elements: {', '.join(info['elements_seen']['framework'])}. Others are extrapolated to.",
            "",
            "## Metrics",
            "",
            f"{metrics['protocol']} ({metrics['hosts']} hosts).",
            "Columns, sizes and the kinds of trees were chosen in a few dozen trials on the same rows, so the",
            "numbers flatter slightly. Models that ship have learned from all folds.",
            "",
            table,
            "",
            "Labels within barrier ± multiples of `sigma_eV` (normal intervals, scale from the other folds):",
            "",
            "| model | 50 % | 80 % | 90 % |",
            "| --- | --- | --- | --- |",
            *held,
            "",
            "## Known failures",
            "",
            "- Paths are taken as they stand in the table: where the published band went round an obstacle that the",
            "  straight line meets, neither images nor probe know the way, and the barrier is a guess by kind.",
            "- Direction is not seen: the forward and reverse barriers of a lopsided path get one number.",
            "- Charge states, magnetism and the functional of the labels are not told.",
            "- Barriers of several eV are rare in the data and are underestimated.",
            "- `fused` learned from the NEB barriers of the table's column; another potential's bands differ.",
            "- The potential may have seen relaxations of the same hosts in its own training, though no barrier.",
            "",
        ]
    )
