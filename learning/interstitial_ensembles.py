"""Training, keeping and reading the ensemble that predicts the barrier of a crystal from its interstitial network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..transport.errors import WeightsError
from .barrier_regression import LEAST_BARRIER_EV
from .elements import DESCRIPTORS, ElementTable, element_table
from .evaluation import grouped_folds, interval_coverage, sigma_scale
from .interstitial_evaluation import (
    EvaluationSettings,
    barrier_scores,
    evaluate_networks,
    labelled_only,
    markdown_table,
    score_table,
)
from .interstitial_graphs import GLOBAL_FEATURES, InterstitialGraph
from .interstitial_storage import InterstitialDataset, load_dataset
from .interstitial_training import NetworkRecipe, TrainingBudget, predicted_logarithms, train_network
from .percolating_network import PercolatingNetwork, PercolatingSettings
from .prediction import file_sha256
from .training import half_precision, read_checkpoint, write_atomically

Progress = Callable[[str], None]
FORMAT = "hopflow interstitial network 1"


@dataclass(frozen=True)
class EnsembleSettings:
    """What is trained for use.

    Attributes
    ----------
    network
        One of the ``percolating`` ones.
    folds
        Members of the ensemble; each leaves the chemical systems of one fold out, which judge it.
    epochs
        None takes the network's own.
    threshold_eV
        Gate that precision and recall are given for.
    seed
        Of folds and members.
    """

    network: str = "percolating-surfaces"
    folds: int = 5
    epochs: int | None = None
    threshold_eV: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        if not isinstance(self.recipe().settings, PercolatingSettings):
            raise ValueError(f"{self.network} knows no uncertainty and is for comparison; train a percolating network.")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, not {self.folds}.")

    def recipe(self) -> NetworkRecipe:
        """The network."""
        return NetworkRecipe.named(self.network)


@dataclass(frozen=True)
class LoadedEnsemble:
    """An ensemble that is ready to predict.

    Attributes
    ----------
    recipe
        The network.
    networks
        Members in evaluation mode.
    table
        Element descriptors as they were at training, so that a later periodic table changes no prediction.
    info
        What the file says about itself.
    """

    recipe: NetworkRecipe
    networks: tuple[PercolatingNetwork, ...]
    table: ElementTable
    info: dict[str, Any]


def species_of(graph: InterstitialGraph) -> set[str]:
    """Framework species as element and sign of the charge, such as ``H-``; without a sign where it is not known."""
    symbols = element_table().symbols
    return {
        symbols[row] + ("+" if charge > 0 else "-" if charge < 0 else "")
        for row, charge in zip(graph.atom_rows, graph.atom_charges, strict=True)
    }


def train_ensemble(
    folder: Path, settings: EnsembleSettings, output: Path, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Train the members, judge each on the chemical systems that it did not see, and write the checkpoint.

    Every finished epoch is kept under ``output``, where a second call goes on.

    Parameters
    ----------
    folder
        The data set.
    settings
        What to train.
    output
        Folder for ``interstitial_network.pt``, ``.json`` and ``.md``, for ``held_out.json`` with each crystal's
        barriers as the one member gives them that did not see its chemical system, and for what is needed to go on.
    workers
        Processes for the trainings in which one anion is held out.
    progress
        Called with one line now and then.

    Returns
    -------
    dict
        The content of the JSON file.
    """
    say = progress or (lambda _: None)
    recipe = settings.recipe()
    dataset = labelled_only(load_dataset(folder))
    crystals = dataset.crystals
    logarithms = np.log(np.maximum(dataset.labels(), LEAST_BARRIER_EV))
    strangers = _strangers(folder, settings, output / "anions", workers, say)
    say(f"sigma of a crystal with an unfamiliar anion: {strangers['factor']:.2f} times that of a familiar one")
    data = [recipe.data(crystal) for crystal in crystals]
    systems: dict[str, int] = {}
    groups = [systems.setdefault(crystal.chemical_system, len(systems)) for crystal in crystals]
    folds = grouped_folds(groups, settings.folds, settings.seed)
    mean, sigma = np.full((2, *logarithms.shape), np.nan)
    members = []
    for fold in range(settings.folds):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        place = f"member {fold + 1} of {settings.folds}, "
        network = train_network(
            recipe,
            [data[i] for i in inside],
            TrainingBudget(settings.epochs),
            seed=1000 * settings.seed + fold,
            resume=output / f"member-{fold}.pt",
            progress=lambda line, place=place: say(place + line),  # type: ignore[misc]
        )
        # Checkpoints hold half precision; the numbers that are published shall be those of the stored weights.
        network = network.half().float()
        mean[outside], sigma[outside] = predicted_logarithms(recipe, [network], [data[i] for i in outside])
        members.append({name: half_precision(value) for name, value in network.state_dict().items()})
    scales = [
        sigma_scale(*(values[np.isfinite(logarithms[:, d]), d] for values in (logarithms, mean, sigma)))
        for d in range(logarithms.shape[1])
    ]
    sigma = sigma * np.array(scales)
    held_out = {
        "fold_of_system": {system: int(folds[groups.index(number)]) for system, number in systems.items()},
        "material_id": [crystal.material_id for crystal in crystals],
        "formula": [crystal.formula for crystal in crystals],
        "true_eV": _plain(dataset.labels()),
        "predicted_eV": _plain(np.exp(mean)),
        "sigma_log": _plain(sigma),
    }
    (output / "held_out.json").write_text(json.dumps(held_out))
    info = {
        "format": FORMAT,
        "network": recipe.name,
        "settings": json.loads(json.dumps(asdict(recipe.settings))),
        "ion": dataset.manifest["settings"]["ion"],
        "graph": dataset.manifest["settings"]["graph"],
        "sigma_scales": scales,
        "unfamiliar_anion": strangers,
        "species": sorted(set().union(*(species_of(crystal.graph) for crystal in crystals))),
        "data": {
            "crystals": len(crystals),
            "chemical_systems": len(systems),
            "labels": "bond-valence barriers in 1, 2 and 3 dimensions, see docs/bond_valence.md",
            "bond_valence": dataset.manifest["settings"]["bond_valence"],
        },
        "training": json.loads(json.dumps(asdict(settings))),
        "metrics": _metrics(dataset, mean, sigma, settings.threshold_eV),
    }
    return _save(members, info, output / "interstitial_network.pt")


def _strangers(folder: Path, settings: EnsembleSettings, results: Path, workers: int, say: Progress) -> dict[str, Any]:
    """How much wider the error is where the training has never seen the anion: each anion held out in turn."""
    comparison = EvaluationSettings(
        (settings.network, "median"),
        splits=("anion",),
        epochs=settings.epochs,
        threshold_eV=settings.threshold_eV,
        seed=settings.seed,
    )
    found = evaluate_networks(folder, comparison, results, workers, say)
    own = [result for result in found if result["network"] == settings.network]
    errors = {}
    for result in own:
        true, mean = (np.log(np.maximum(result[name], LEAST_BARRIER_EV)) for name in ("true_eV", "predicted_eV"))
        errors[result["held_out"]] = true, mean, np.array(result["sigma_log"])
    factors = {anion: sigma_scale(*parts) for anion, parts in errors.items()}
    # Nobody knows which of the anions an unknown one is like; the worst of them promises least.
    factor = max(1.0, *factors.values())
    return {
        "factor": factor,
        "factors": factors,
        "coverage": {
            anion: interval_coverage(true, mean, factor * sigma) for anion, (true, mean, sigma) in errors.items()
        },
        "table": markdown_table(found),
        "rows": score_table(found),
    }


def _metrics(dataset: InterstitialDataset, mean: np.ndarray, sigma: np.ndarray, threshold_eV: float) -> dict[str, Any]:
    """Metrics of each crystal's barrier as predicted by the member that did not see its chemical system."""
    true_eV = dataset.labels()
    metrics: dict[str, Any] = {}
    for d in range(true_eV.shape[1]):
        chosen = np.isfinite(true_eV[:, d])
        logarithms = np.log(np.maximum(true_eV[chosen, d], LEAST_BARRIER_EV))
        metrics[f"{d + 1}d"] = {
            **barrier_scores(true_eV[chosen, d], np.exp(mean[chosen, d]), threshold_eV),
            "coverage": interval_coverage(logarithms, mean[chosen, d], sigma[chosen, d]),
        }
    return metrics


def _save(members: Sequence[dict[str, torch.Tensor]], info: dict[str, Any], file: Path) -> dict[str, Any]:
    table = element_table()
    # Plain values only: the reader takes nothing else from the file.
    info = json.loads(json.dumps(info))
    content = {
        "info": info,
        "descriptors": list(DESCRIPTORS),
        "global_features": list(GLOBAL_FEATURES),
        "symbols": list(table.symbols),
        "element_values": torch.as_tensor(table.values),
        "members": list(members),
    }
    write_atomically(content, file)
    info = {**info, "sha256": file_sha256(file), "members": len(members), "bytes": file.stat().st_size}
    file.with_suffix(".json").write_text(json.dumps(info, indent=1) + "\n")
    file.with_suffix(".md").write_text(model_card(info))
    return info


def load_interstitial_ensemble(file: Path) -> LoadedEnsemble:
    """Read a checkpoint; nothing but tensors and plain values is accepted from the file.

    Raises
    ------
    WeightsError
        The file is damaged or of another format.
    """
    content = read_checkpoint(file, "interstitial network")
    columns = (list(DESCRIPTORS), list(GLOBAL_FEATURES))
    if (
        not isinstance(content, dict)
        or content.get("info", {}).get("format") != FORMAT
        or (content["descriptors"], content["global_features"]) != columns
    ):
        raise WeightsError(f"The interstitial network {file} is of another version; train it anew with this hopflow.")
    info = content["info"]
    settings = PercolatingSettings(**info["settings"])
    recipe = NetworkRecipe(info["network"], settings)
    networks = []
    for member in content["members"]:
        network = PercolatingNetwork(settings)
        network.load_state_dict({name: value.to(network.state_dict()[name].dtype) for name, value in member.items()})
        networks.append(network.eval())
    table = ElementTable(tuple(content["symbols"]), np.asarray(content["element_values"].numpy(), dtype=float))
    return LoadedEnsemble(recipe, tuple(networks), table, info)


def model_card(info: dict[str, Any]) -> str:
    """The model card of a checkpoint in Markdown, from the content of its JSON file."""
    metrics, strangers = info["metrics"], info["unfamiliar_anion"]
    columns = ("r2", "r2_log", "mae_eV", "spearman", "precision", "recall")
    table = ["| barrier | crystals | " + " | ".join(columns) + " | interval 50/80/90 % |", "|---" * 9 + "|"]
    for name, values in metrics.items():
        cells = [f"{values[column]:.3f}" for column in columns]
        coverage = "/".join(f"{100 * share:.0f}" for share in values["coverage"].values())
        table.append(f"| {name.upper()} | {values['crystals']:.0f} | " + " | ".join(cells) + f" | {coverage} |")
    settings, training = info["settings"], info["training"]
    return "\n".join(
        [
            f"# Interstitial network `{info['network']}`: barriers of crystals without bond-valence parameters",
            "",
            f"SHA-256 `{info['sha256']}`, {info['bytes'] / 1e6:.1f} MB. {info['members']} members of "
            f"{settings['channels']} channels and {settings['rounds']} rounds of messages between interstices and "
            f"bottlenecks, {training['epochs'] or settings['epochs']} epochs each. Each learns a site energy for every "
            "interstice and bottleneck of the framework, lets the ion percolate through them exactly, and corrects "
            "the logarithm of the barrier.",
            "",
            "## Data",
            "",
            f"{info['data']['crystals']} {info['ion']} compounds in {info['data']['chemical_systems']} chemical "
            "systems; structures of the Materials Project (A. Jain et al., APL Mater. 1 (2013) 011002, CC BY 4.0). "
            f"Labels: {info['data']['labels']}, grid spacing {info['data']['bond_valence']['spacing_A']} Å, refined to "
            "saddle points. No experimental or first-principles barrier is in the data: the network repeats the "
            "bond-valence method, with its errors.",
            "",
            "## Metrics",
            "",
            f"Each crystal judged by the one member of {info['members']} that saw nothing of its chemical system. "
            f"Precision and recall of a gate at {training['threshold_eV']} eV. A shipped prediction averages all "
            "members. Sigma was scaled on the same residuals.",
            "",
            *table,
            "",
            "## Chemistry that it has never seen",
            "",
            "What it is used for is mostly an anion without bond-valence parameters, and no label exists there. The "
            "next best thing was measured: all crystals with one anion were left out of a training and judged then.",
            "",
            strangers["table"],
            "",
            "In the logarithm, 68 % of these errors lie within "
            + ", ".join(f"{factor:.2f} ({anion})" for anion, factor in strangers["factors"].items())
            + " sigma of a crystal with familiar anions. Where a crystal has a species that no training crystal has, "
            f"sigma is multiplied by the largest, {strangers['factor']:.2f}.",
            "",
            "## Known failures",
            "",
            "- Extrapolated anions (hydrides, phosphides, carbides): the ranking is better than the values; see above.",
            "- Barriers of several eV are rare and their errors large.",
            "- The framework is frozen and the mobile ions do not see each other, as in the method that it learned.",
            "- Other mobile ions than lithium are refused.",
            "",
        ]
    )


def _plain(values: np.ndarray) -> list[list[float | None]]:
    """Rows for a JSON file, where a number that is not finite is null."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in values]
