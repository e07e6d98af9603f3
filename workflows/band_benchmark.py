"""Bands of a potential against reference barriers: which paths, how well, and which went wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .reference_paths import PUBLISHED_COLUMN, ReferencePath, continuous

if TYPE_CHECKING:
    from .path_bands import BandAnswer

OUTLIER_EV = 1.0
"""A barrier that is off by more is listed by name."""

PUBLISHED = f"published {PUBLISHED_COLUMN}"

_COLUMNS = {
    "mae_eV": "MAE, eV",
    "rmse_eV": "RMSE, eV",
    "pearson": "Pearson",
    "slope": "slope",
    "r2": "R²",
    "spearman": "Spearman",
}


@dataclass(frozen=True)
class Selection:
    """Which paths are run; settled before any of them is.

    Attributes
    ----------
    paths
        The paths, in the order of the data.
    sentence
        The rule and what it chose.
    """

    paths: list[ReferencePath]
    sentence: str


def select_paths(paths: Sequence[ReferencePath], max_atoms: int, limit: int, seed: int) -> Selection:
    """Choose paths by size and, where there are more than wanted, by lot.

    Parameters
    ----------
    paths
        All paths of the data.
    max_atoms
        Larger cells are left out; 0 leaves out none.
    limit
        Draw so many; 0 takes all.
    seed
        Of the lot.
    """
    small = [path for path in paths if max_atoms == 0 or path.atoms <= max_atoms]
    sentence = f"{len(paths)} paths with a reference barrier"
    if max_atoms:
        sentence += f", of which {len(small)} have at most {max_atoms} atoms in the cell"
    chosen = list(range(len(small)))
    if limit and limit < len(small):
        chosen = sorted(np.random.default_rng(seed).permutation(len(small))[:limit].tolist())
        sentence += f", of which {limit} are drawn by lot with seed {seed}"
    return Selection([small[number] for number in chosen], f"{sentence}; chosen before any of them is run.")


def path_displacement_A(found: np.ndarray, reference: np.ndarray, lattice: np.ndarray) -> float:
    """Mean displacement of an atom from the reference band, averaged over the path.

    Both bands are compared at the same shares of their lengths, without the drift of the crystal as a whole.

    Parameters
    ----------
    found, reference
        Positions of the images in Angstrom, atoms in the same order, shapes (images, atoms, 3); the numbers of images
        may differ.
    lattice
        Cell vectors as rows, shape (3, 3).
    """
    from ase.geometry import find_mic

    from ..transport.neb import spread

    images = len(reference)
    away = spread(found, images) - spread(reference, images)
    moved = find_mic(away.reshape(-1, 3), lattice, pbc=True)[0].reshape(away.shape)
    moved -= moved.mean(axis=1, keepdims=True)
    return float(np.linalg.norm(moved, axis=2).mean())


def band_displacement_A(path: ReferencePath, band: Path) -> float | None:
    """:func:`path_displacement_A` of a band in an extended XYZ file; None where there is nothing to compare."""
    from ase.io import read

    if path.images_A is None or not band.is_file():
        return None
    frames: list[Any] = list(read(band, ":", format="extxyz"))
    return path_displacement_A(continuous(frames), path.images_A, np.array(path.row["lattice"]))


def agreement(reference_eV: np.ndarray, found_eV: np.ndarray) -> dict[str, float]:
    """How well barriers agree: those of :func:`..learning.evaluation.barrier_metrics`, Pearson's r, and the slope of a
    least-squares line of the found over the reference barriers. NaN where a number has no meaning.
    """
    from scipy.stats import linregress

    from ..learning.evaluation import barrier_metrics

    metrics = barrier_metrics(reference_eV, found_eV)
    chosen = {name: metrics[name] for name in ("mae_eV", "median_error_eV", "rmse_eV", "r2", "spearman")}
    varied = len(reference_eV) > 1 and np.ptp(reference_eV) > 0
    line = linregress(reference_eV, found_eV) if varied else None
    return {
        **chosen,
        "pearson": float(line.rvalue) if line is not None else float("nan"),
        "slope": float(line.slope) if line is not None else float("nan"),
    }


def benchmark_document(
    selection: Selection,
    answers: dict[str, Sequence[BandAnswer]],
    displacements_A: dict[str, Sequence[float | None]],
    left_out: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """Everything that the benchmark says.

    Parameters
    ----------
    selection
        The paths.
    answers
        Of each potential, in the order of the paths.
    displacements_A
        From the reference band, of each potential, in the same order.
    left_out
        Rows of the data that are no path with a barrier.

    Returns
    -------
    dict
        ``selection``; ``table``: of each potential on the paths that have its barrier, with the published column on the
        same paths below it, and the published column on all paths; ``converged`` of each potential: count, share and
        reasons; ``outliers``: paths that are off by more than ``outlier_eV``; ``displacement_A`` of each potential;
        ``cost`` of each potential; ``paths``: every answer beside its reference; ``left_out``.
    """
    reference_eV = np.array([path.barrier_eV for path in selection.paths])
    published_eV = _numbers(path.published_eV for path in selection.paths)
    found = {name: _numbers(answer.barrier_eV for answer in each) for name, each in answers.items()}
    table = []
    for name, barriers_eV in found.items():
        known = np.isfinite(barriers_eV)
        table.append(_line(name, f"{name} has a barrier", reference_eV, barriers_eV, known))
        both = known & np.isfinite(published_eV)
        if both.any():
            rows_of = f"{name} and the published column have a barrier"
            table.append(_line(name, rows_of, reference_eV, barriers_eV, both))
            table.append(_line(PUBLISHED, rows_of, reference_eV, published_eV, both))
    if np.isfinite(published_eV).any():
        table.append(_line(PUBLISHED, "published column", reference_eV, published_eV, np.isfinite(published_eV)))
    return {
        "selection": selection.sentence,
        "path_ids": [path.path_id for path in selection.paths],
        "barrier": "highest less lowest image of the band",
        "table": table,
        "converged": {name: _converged(each) for name, each in answers.items()},
        "outlier_eV": OUTLIER_EV,
        "outliers": _outliers(selection.paths, {**found, PUBLISHED: published_eV}),
        "displacement_A": {name: _displacement(each) for name, each in displacements_A.items()},
        "cost": {name: _cost(each) for name, each in answers.items()},
        "paths": [
            {
                "path_id": path.path_id,
                "atoms": path.atoms,
                "reference_eV": path.barrier_eV,
                "published_eV": path.published_eV,
                "answers": {
                    name: {**each[number].document(), "displacement_A": displacements_A[name][number]}
                    for name, each in answers.items()
                },
            }
            for number, path in enumerate(selection.paths)
        ],
        "left_out": list(left_out),
    }


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _line(
    predictor: str, rows_of: str, reference_eV: np.ndarray, found_eV: np.ndarray, known: np.ndarray
) -> dict[str, Any]:
    metrics = agreement(reference_eV[known], found_eV[known]) if known.any() else {}
    return {"predictor": predictor, "rows_of": rows_of, "rows": int(known.sum()), "metrics": metrics}


def _converged(answers: Sequence[BandAnswer]) -> dict[str, Any]:
    count = sum(answer.converged for answer in answers)
    reasons = Counter(answer.reason for answer in answers if not answer.converged)
    return {
        "paths": len(answers),
        "converged": count,
        "share": count / len(answers) if answers else None,
        "reasons": {str(reason): number for reason, number in reasons.most_common()},
        "of_several_hops": sum((answer.hops or 1) > 1 for answer in answers if answer.converged),
    }


def _cost(answers: Sequence[BandAnswer]) -> dict[str, Any]:
    evaluations = [answer.evaluations for answer in answers if answer.converged]
    return {
        "evaluations": sum(answer.evaluations for answer in answers),
        "seconds": float(sum(answer.seconds for answer in answers)),
        "median_evaluations_of_converged": float(np.median(evaluations)) if evaluations else None,
    }


def _displacement(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"paths": len(known), "mean": float(np.mean(known)) if known else None}


def _outliers(paths: Sequence[ReferencePath], found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"predictor": name, "path_id": path.path_id, "reference_eV": path.barrier_eV, "found_eV": float(value)}
        for name, barriers_eV in found.items()
        for path, value in zip(paths, barriers_eV, strict=True)
        if abs(value - path.barrier_eV) > OUTLIER_EV
    ]


def benchmark_markdown(document: dict[str, Any]) -> str:
    """The benchmark's tables in Markdown."""
    from ..learning.ensembles import number_text

    def cells(line: dict[str, Any]) -> list[str]:
        return [number_text(line["metrics"].get(name, float("nan"))) for name in _COLUMNS]

    parts = [document["selection"], f"Barrier: {document['barrier']}."]
    parts.append(
        _table(
            ["barriers of", "paths where", "paths", *_COLUMNS.values()],
            [[line["predictor"], line["rows_of"], str(line["rows"]), *cells(line)] for line in document["table"]],
        )
    )
    lines = []
    for name, each in document["converged"].items():
        reasons = ", ".join(f"{reason}: {count}" for reason, count in each["reasons"].items()) or "-"
        cost, moved = document["cost"][name], document["displacement_A"][name]
        lines.append(
            [
                *(name, f"{each['converged']} of {each['paths']}", f"{each['share'] or 0:.1%}", reasons),
                *(str(each["of_several_hops"]), str(cost["evaluations"]), f"{cost['seconds']:.0f}"),
                "-" if moved["mean"] is None else f"{moved['mean']:.3f} ({moved['paths']} paths)",
            ]
        )
    parts.append(
        _table(
            [
                *("potential", "converged", "share", "reasons", "of several hops", "evaluations", "s"),
                "displacement from the reference band, Å",
            ],
            lines,
        )
    )
    outliers = [
        [each["predictor"], each["path_id"], f"{each['reference_eV']:.3f}", f"{each['found_eV']:.3f}"]
        for each in document["outliers"]
    ]
    if outliers:
        title = f"off by more than {document['outlier_eV']:g} eV"
        parts.append(_table(["barriers of", title, "reference, eV", "found, eV"], outliers))
    return "\n\n".join(parts)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def benchmark_figure(selection: Selection, document: dict[str, Any], file: Path) -> bool:
    """Draw found over reference barriers, a panel for each potential and one for the published column.

    Returns
    -------
    Whether there was anything to draw.
    """
    from .learning_figures import draw_parity

    true_eV = np.array([path.barrier_eV for path in selection.paths])
    found: dict[str, np.ndarray] = {
        name: _numbers(each["answers"][name]["barrier_eV"] for each in document["paths"])
        for name in document["converged"]
    }
    found[PUBLISHED] = _numbers(path.published_eV for path in selection.paths)
    panels = []
    for title, found_eV in found.items():
        known = np.isfinite(found_eV)
        if known.any():
            pair = true_eV[known], found_eV[known]
            panels.append((f"{title}, {known.sum()} paths", *pair, agreement(*pair)))
    if panels:
        draw_parity(panels, 0.65, "reference barrier, eV", file)
    return bool(panels)


def write_benchmark(selection: Selection, document: dict[str, Any], folder: Path) -> list[str]:
    """Write ``benchmark.json``, ``table.md`` and, where there is anything to draw, ``parity.png``.

    Returns
    -------
    Their names.
    """
    from .console import json_text

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json_text(document) + "\n")
    (folder / "table.md").write_text(benchmark_markdown(document) + "\n")
    drawn = benchmark_figure(selection, document, folder / "parity.png")
    return ["benchmark.json", "table.md", *(["parity.png"] if drawn else [])]


def run_benchmark(
    selection: Selection,
    potentials: Sequence[str],
    run: Callable[[str, Sequence[dict[str, Any]], Path], Sequence[BandAnswer]],
    bands: Path,
    left_out: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Run every potential on the chosen paths and judge it.

    Parameters
    ----------
    selection
        The paths.
    potentials
        Names.
    run
        Gives the answers of a potential to rows, in order, and leaves each band in a folder; called as
        ``run(potential, rows, folder)``.
    bands
        Folder of the bands, one folder a potential in it, of its name with odd signs as underscores.
    left_out
        Rows of the data that are no path with a barrier.

    Returns
    -------
    dict
        See :func:`benchmark_document`.
    """
    from .path_bands import band_file_names

    rows = [path.row for path in selection.paths]
    files = list(band_file_names([path.path_id for path in selection.paths]))
    folders = {name: bands / re.sub(r"[^\w.-]+", "_", name).strip("_") for name in potentials}
    answers: dict[str, Sequence[BandAnswer]] = {}
    displacements: dict[str, Sequence[float | None]] = {}
    for name in potentials:
        answers[name] = run(name, rows, folders[name])
        displacements[name] = [
            band_displacement_A(path, folders[name] / file) if answer.converged else None
            for path, file, answer in zip(selection.paths, files, answers[name], strict=True)
        ]
    return benchmark_document(selection, answers, displacements, left_out)
