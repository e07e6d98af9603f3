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
    from matplotlib.figure import Figure

    columns = min(4, len(results))
    rows = math.ceil(len(results) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.3, 3.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    pairs = [tuple(np.asarray(result[name], dtype=float) for name in ("true_eV", "predicted_eV")) for result in results]
    limits_eV = LEAST_DRAWN_EV, 2.0 * max(LEAST_DRAWN_EV, *(float(true_eV.max()) for true_eV, _ in pairs))
    for number, panel in enumerate(panels.flat):
        panel.set_visible(number < len(results))
        panel.tick_params(labelsize=8, labelbottom=number + columns >= len(results))
    for panel, result, (true_eV, predicted_eV) in zip(panels.flat, results, pairs, strict=False):
        panel.plot(limits_eV, limits_eV, color="0.4", linewidth=0.8)
        panel.axhline(threshold_eV, color="0.75", linewidth=0.8)
        panel.axvline(threshold_eV, color="0.75", linewidth=0.8)
        places = np.clip(true_eV, *limits_eV), np.clip(predicted_eV, *limits_eV)
        panel.scatter(*places, s=7, color="#1f6f8b", alpha=0.45, linewidths=0, clip_on=False)
        scores = result["scores"]
        panel.set_title(f"{result['network']}\nR² {scores['r2']:.3f}, MAE {scores['mae_eV']:.3f} eV", fontsize=9)
        panel.set(xscale="log", yscale="log", xlim=limits_eV, ylim=limits_eV, aspect="equal")
        panel.grid(visible=True, color="0.93")
        panel.set_axisbelow(True)
    first = results[0]
    # A split by anion is called after the anion.
    held_out = f"without {first['held_out']}" if first["split"] == "anion" else f"{first['split']} split"
    figure.supxlabel(f"bond-valence barrier, eV ({held_out}, {len(first['test'])} crystals)", fontsize=9)
    figure.supylabel("predicted, eV (at the edge where it lies beyond)", fontsize=9)
    figure.savefig(file, dpi=150)
