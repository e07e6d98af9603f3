"""Ensembles of path networks on disk: plain tensors and settings that load without running any code from the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..transport.errors import WeightsError
from .elements import DESCRIPTORS, ElementTable, element_table
from .path_graphs import IMAGE_FEATURES, PATH_FEATURES, GraphSettings
from .path_network import NetworkSettings, PathNetwork
from .prediction import file_sha256
from .training import Ensemble, TrainingSettings, empty_network, half_precision, read_checkpoint, write_atomically

FORMAT = "hopflow path network 1"
DATA = {
    "citation": "Devi et al., literature DFT-NEB migration barriers, arXiv 2508.06459 (data) and 2508.06436 (models)",
    "licence": "MIT (sai-mat-group)",
}

CARD_COLUMNS: tuple[str, ...] = (
    "rows",
    "mae_eV",
    "rmse_eV",
    "r2",
    "spearman",
    *(f"{name}_{threshold}_eV" for threshold in ("0.65", "0.50") for name in ("accuracy", "precision", "recall")),
)
"""Metrics in the tables that people read."""


@dataclass(frozen=True)
class LoadedEnsemble:
    """An ensemble that is ready to predict.

    Attributes
    ----------
    settings
        Settings that it was trained with.
    table
        Element descriptors as they were at training, so that a later periodic table changes no prediction.
    networks
        Members in evaluation mode.
    sigma_scale
        Factor on the total sigma.
    """

    settings: TrainingSettings
    table: ElementTable
    networks: tuple[PathNetwork, ...]
    sigma_scale: float


def save_ensemble(
    ensemble: Ensemble, rows: Sequence[dict[str, Any]], metrics: dict[str, Any], file: Path
) -> dict[str, Any]:
    """Write the checkpoint and, beside it, the JSON file that says what it is; return the latter.

    Weights are stored in half precision, to which training has rounded them already.
    """
    table = element_table()
    content = {
        "format": FORMAT,
        "settings": asdict(ensemble.settings),
        "descriptors": list(DESCRIPTORS),
        "features": [list(IMAGE_FEATURES), list(PATH_FEATURES)],
        "symbols": list(table.symbols),
        "element_values": torch.as_tensor(table.values),
        "sigma_scale": ensemble.sigma_scale,
        "fold_of_member": list(ensemble.fold_of_member),
        "members": [{name: half_precision(value) for name, value in member.items()} for member in ensemble.members],
    }
    write_atomically(content, file)
    info = {
        "format": FORMAT,
        "sha256": file_sha256(file),
        "members": len(ensemble.members),
        "sigma_scale": ensemble.sigma_scale,
        "settings": asdict(ensemble.settings),
        "data": {**DATA, "rows": len(rows)},
        "elements_seen": {
            "ions": sorted({row["migrating_ion"] for row in rows}),
            "framework": sorted({symbol for row in rows for symbol in row["framework_species"]}),
        },
        "metrics": metrics,
    }
    file.with_suffix(".json").write_text(json.dumps(without_nan(info), indent=1) + "\n")
    return info


def without_nan(data: Any) -> Any:
    """Data whose numbers JSON can hold: None stands where one is not finite."""
    if isinstance(data, float):
        return data if np.isfinite(data) else None
    if isinstance(data, dict):
        return {key: without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return data


def number_text(value: float | None) -> str:
    """A metric with three decimals, or a dash where it has no meaning."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"


def model_card(info: dict[str, Any]) -> str:
    """The model card of a checkpoint in Markdown, from the content of its JSON file."""
    metrics, settings = info["metrics"], info["settings"]
    columns = [name for name in CARD_COLUMNS if all(name in values for values in metrics["table"].values())]
    table = ["| predictor, rows | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in metrics["table"].items():
        cells = [f"{values[c]:.0f}" if c == "rows" else number_text(values[c]) for c in columns]
        table.append(f"| {name} | " + " | ".join(cells) + " |")
    intervals = [
        f"- {key}: {number_text(low)} to {number_text(high)}" for key, (low, high) in metrics["interval_90"].items()
    ]
    coverage = ", ".join(f"{float(level):.0%} → {seen:.1%}" for level, seen in metrics["coverage"].items())
    outliers = [
        f"- {row['path_id']}: label {row['true_eV']:.2f}, network {row['predicted_eV']:.2f} ± {row['sigma_eV']:.2f} eV"
        for row in metrics["rows_above_4_eV"]
    ]
    return "\n".join(
        [
            "# Path network: migration barriers of single hops",
            "",
            f"SHA-256 `{info['sha256']}`. {info['members']} networks, {settings['network']['layers']} message-passing",
            f"layers of {settings['network']['hidden']} channels, on the framework within",
            f"{settings['graph']['path_cutoff_A']} Å of five images of the migrating ion. The images first give way to",
            "the framework in a soft-sphere band. Target: log(barrier + "
            f"{settings['offset_eV']} eV); elements enter as physical descriptors.",
            "",
            "## Data",
            "",
            f"{info['data']['rows']} paths. {info['data']['citation']}. Licence: {info['data']['licence']}.",
            f"Migrating ions: {', '.join(info['elements_seen']['ions'])}. Framework elements:",
            f"{', '.join(info['elements_seen']['framework'])}. Other elements are extrapolated to.",
            "The published MACE-NEB barrier of each training path teaches a second output; it is never an input.",
            "",
            "## Metrics",
            "",
            f"{metrics['protocol']} ({metrics['hosts']} hosts). Sizes and epochs were chosen in a few trials on other",
            "folds of the same rows, so the numbers flatter slightly. `usual` leaves out labels above 4 eV;",
            "`usual_with_mace` holds those that also have a published MACE-NEB barrier (`mace_neb`);",
            "`mean_of_both` averages it with the network, without any fitted parameter. A shipped prediction averages",
            "all members, a cross-validated one only those of its fold.",
            "",
            *table,
            "",
            "90 % intervals of `network/usual`, resampling hosts:",
            "",
            *intervals,
            "",
            f"Coverage of the central intervals (nominal → seen, out of fold): {coverage}. One factor "
            f"({info['sigma_scale']:.2f}) was fitted to the 68 % level on the same out-of-fold residuals.",
            "",
            "Labels above 4 eV:",
            "",
            *outliers,
            "",
            "## Known failures",
            "",
            "- The images are rigid guesses: hops whose ion leaves the straight line by more than 1.5 Å, or where the",
            "  framework makes way (soft anions, rotating groups), are judged by the wrong bottleneck.",
            "- Direction is not seen: the forward and reverse barriers of a lopsided path get one number.",
            "- Charge states, magnetism and the functional of the label (PBE, PBE+U, SCAN, LDA mixed) are not told.",
            "- Barriers of several eV are rare in the data and are underestimated.",
            "",
        ]
    )


def load_ensemble(file: Path) -> LoadedEnsemble:
    """Read a checkpoint; nothing but tensors and plain values is accepted from the file.

    Raises
    ------
    WeightsError
        The file is damaged or of another format.
    """
    content = read_checkpoint(file, "path network")
    expected = (FORMAT, list(DESCRIPTORS), [list(IMAGE_FEATURES), list(PATH_FEATURES)])
    if not isinstance(content, dict) or expected != tuple(
        content.get(k) for k in ("format", "descriptors", "features")
    ):
        raise WeightsError(f"The path network {file} is of another version; train it anew with this hopflow.")
    raw = dict(content["settings"])
    graph, network = GraphSettings(**raw.pop("graph")), NetworkSettings(**raw.pop("network"))
    settings = TrainingSettings(graph=graph, network=network, **raw)
    table = ElementTable(tuple(content["symbols"]), np.asarray(content["element_values"].numpy(), dtype=float))
    networks = []
    for member in content["members"]:
        loaded = empty_network(settings, elements=len(table.symbols))
        loaded.load_state_dict({name: value.to(loaded.state_dict()[name].dtype) for name, value in member.items()})
        networks.append(loaded.eval())
    return LoadedEnsemble(settings, table, tuple(networks), float(content["sigma_scale"]))
