"""Figures of networks that predict barriers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LEAST_DRAWN_EV = 0.01
"""Where the axes begin; the networks learn no lower barrier either."""


def parity_figure(results: Sequence[dict[str, Any]], threshold_eV: float, file: Path) -> None:
    """Draw predicted over true barriers on logarithmic axes, one panel a network, and write the figure.

    Parameters
    ----------
    results
        Results of networks on one split, see :func:`..learning.interstitial_evaluation.evaluate_networks`.
    threshold_eV
        Gate, drawn as thin lines.
    file
        ``.png``, ``.svg`` or ``.pdf``; its folder is there.
    """
    pairs = [tuple(np.asarray(result[name], dtype=float) for name in ("true_eV", "predicted_eV")) for result in results]
    first = results[0]
    # A split by anion is called after the anion.
    held_out = f"without {first['held_out']}" if first["split"] == "anion" else f"{first['split']} split"
    panels = [(result["network"], *pair, result["scores"]) for result, pair in zip(results, pairs, strict=True)]
    draw_parity(panels, threshold_eV, f"bond-valence barrier, eV ({held_out}, {len(first['test'])} crystals)", file)


def draw_parity(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray, dict[str, float]]], threshold_eV: float, label: str, file: Path
) -> None:
    """Draw predicted over true barriers on logarithmic axes.

    Parameters
    ----------
    panels
        Title, true and predicted barriers in eV, and scores with ``r2`` and ``mae_eV``.
    threshold_eV
        Gate, drawn as thin lines.
    label
        Of the axis of true barriers.
    file
        ``.png``, ``.svg`` or ``.pdf``; its folder is there.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.3, 3.1 * rows + 0.5), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    limits_eV = LEAST_DRAWN_EV, 2.0 * max(LEAST_DRAWN_EV, *(float(true_eV.max()) for _, true_eV, _, _ in panels))
    for number, place in enumerate(places.flat):
        place.set_visible(number < len(panels))
        place.tick_params(labelsize=8, labelbottom=number + columns >= len(panels))
    for place, (title, true_eV, predicted_eV, scores) in zip(places.flat, panels, strict=False):
        place.plot(limits_eV, limits_eV, color="0.4", linewidth=0.8)
        place.axhline(threshold_eV, color="0.75", linewidth=0.8)
        place.axvline(threshold_eV, color="0.75", linewidth=0.8)
        points = np.clip(true_eV, *limits_eV), np.clip(predicted_eV, *limits_eV)
        place.scatter(*points, s=7, color="#1f6f8b", alpha=0.45, linewidths=0, clip_on=False)
        place.set_title(f"{title}\nR² {scores['r2']:.3f}, MAE {scores['mae_eV']:.3f} eV", fontsize=9)
        place.set(xscale="log", yscale="log", xlim=limits_eV, ylim=limits_eV, aspect="equal")
        place.grid(visible=True, color="0.93")
        place.set_axisbelow(True)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("predicted, eV (at the edge where it lies beyond)", fontsize=9)
    figure.savefig(file, dpi=150)


def barrier_parity_figure(rows: Sequence[dict[str, Any]], document: dict[str, Any], file: Path) -> None:
    """Draw each learner, the published MACE-NEB barriers where there are any, and its mean with the first learner.

    Parameters
    ----------
    rows
        Rows that were judged.
    document
        What :func:`..learning.barrier_evaluation.evaluate_barrier_learners` found for them; its first repeat is drawn.
    file
        The figure.
    """
    from ..learning.barrier_report import published_eV
    from ..learning.evaluation import barrier_metrics

    mace_eV = published_eV(rows)
    true_eV = np.array([each["true_eV"] for each in document["predictions"]])
    found = {
        name: np.array([each["predicted_eV"][name][0] for each in document["predictions"]])
        for name in document["learners"]
        if name != "median"
    }
    first = next(iter(found.items()), None)
    found["published MACE-NEB"] = mace_eV
    if first is not None:
        found["mean of first and MACE-NEB"] = 0.5 * (mace_eV + first[1])
    usual = true_eV <= document["outlier_eV"]
    panels = []
    for title, found_eV in found.items():
        known = usual & np.isfinite(found_eV)
        if known.any():
            pair = true_eV[known], found_eV[known]
            panels.append((f"{title}, {known.sum()} paths", *pair, barrier_metrics(*pair)))
    draw_parity(panels, 0.65, "published barrier, eV (hosts held out)", file)


def loss_figure(losses: Sequence[Sequence[float]], members_per_fold: int, file: Path) -> None:
    """Draw the loss of each member over the epochs, members of one fold in one colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, history in enumerate(losses):
        fold, member = divmod(number, members_per_fold)
        name = f"without fold {fold + 1}" if member == 0 else None
        axes.plot(range(1, len(history) + 1), history, color=f"C{fold % 10}", linewidth=1.0, marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="loss (negative log-likelihood)")
    axes.grid(visible=True, color="0.93")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=150)


def size_figure(curve: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the error of each learner over the number of training paths, with the 90 % intervals over hosts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(entry["predictor"] for entry in curve):
        own = [entry for entry in curve if entry["predictor"] == name]
        found = np.array([entry["metrics"]["mae_eV"] for entry in own])
        ends = np.array([entry["interval_90"]["mae_eV"] for entry in own])
        sizes = [entry["training_paths"] for entry in own]
        axes.errorbar(sizes, found, yerr=np.abs(ends - found[:, None]).T, marker="o", capsize=3, label=name)
    axes.set(xlabel="training paths", ylabel="mean absolute error, eV", ylim=(0, None))
    axes.grid(visible=True, color="0.93")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=150)


def coverage_figure(coverage: dict[str, dict[str, dict[str, dict[str, float]]]], file: Path) -> None:
    """Draw how many labels the intervals of each learner hold over how many they claim to hold.

    Parameters
    ----------
    coverage
        Of each learner, see :func:`..learning.interval_calibration.coverage`; one panel a method, intervals on the
        learned scale as full lines, those in eV as dashed ones.
    file
        The figure.
    """
    from matplotlib.figure import Figure

    methods = list(next(iter(coverage.values())))
    figure = Figure(figsize=(3.4 * len(methods) + 0.4, 3.8), layout="constrained")
    places = figure.subplots(1, len(methods), squeeze=False, sharex=True, sharey=True)[0]
    for place, method in zip(places, methods, strict=True):
        place.plot((0.4, 1.0), (0.4, 1.0), color="0.4", linewidth=0.8)
        for number, (name, found) in enumerate(coverage.items()):
            for scale, style in (("log", "-"), ("eV", "--")):
                levels = [float(level) for level in found[method][scale]]
                shares = list(found[method][scale].values())
                label = name if scale == "log" else None
                place.plot(levels, shares, style, color=f"C{number % 10}", marker="o", markersize=3, label=label)
        place.set_title(method.replace("_", " "), fontsize=9)
        place.set(xlabel="claimed share", xlim=(0.4, 1.0), ylim=(0.4, 1.0), aspect="equal")
        place.grid(visible=True, color="0.93")
    places[0].set_ylabel("share of labels inside")
    places[0].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=150)
