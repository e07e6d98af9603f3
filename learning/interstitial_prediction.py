"""Barriers of crystals from the shipped interstitial network."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.errors import CandidateError, Reason, WeightsError
from .interstitial_graphs import (
    InterstitialGraph,
    InterstitialGraphSettings,
    build_interstitial_graph,
    graph_of_network,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.interstitial_network import InterstitialNetwork, InterstitialNetworkSettings
    from .interstitial_ensembles import LoadedEnsemble

CHECKPOINT = Path(__file__).parent / "checkpoints" / "interstitial_network.pt"


@dataclass(frozen=True)
class CrystalPrediction:
    """What the network says about a crystal.

    Attributes
    ----------
    barriers_eV
        Bond-valence barriers in 1, 2 and 3 dimensions.
    sigmas_eV
        Their standard deviations. On the logarithmic scale on which the network learns they are symmetric; here half
        of the distance between both ends.
    sigmas_log
        Standard deviations of the natural logarithms of the barriers.
    unfamiliar_species
        Framework species, such as ``H-``, that no training crystal has; sigma is wider for them.
    interstices
        Number of interstices of the primitive cell.
    """

    barriers_eV: tuple[float, float, float]
    sigmas_eV: tuple[float, float, float]
    sigmas_log: tuple[float, float, float]
    unfamiliar_species: tuple[str, ...]
    interstices: int


def checkpoint_info(checkpoint: Path | None = None) -> dict[str, Any]:
    """What the JSON file beside a checkpoint (default: the shipped one) says about it, its SHA-256 included.

    Torch is not needed.

    Raises
    ------
    WeightsError
        A file is missing or damaged, or the checkpoint is not the one that its JSON file tells of.
    """
    file = checkpoint or CHECKPOINT
    card = file.with_suffix(".json")
    for needed in (file, card):
        if not needed.is_file():
            raise WeightsError(f"The interstitial network's file {needed} is missing; reinstall hopflow or train one.")
    return dict(_read_info(file, file.stat().st_mtime_ns, card.stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _read_info(file: Path, *modified_ns: int) -> dict[str, Any]:  # noqa: ARG001 (part of the key)
    from .prediction import file_sha256

    card = file.with_suffix(".json")
    try:
        content: dict[str, Any] = json.loads(card.read_text())
    except ValueError as error:
        raise WeightsError(f"The interstitial network's file {card} is damaged; restore it or train anew.") from error
    if content.get("sha256") != file_sha256(file):
        raise WeightsError(
            f"The interstitial network {file} is not the one that {card.name} describes; restore it or train anew."
        )
    return content


def predict_crystal(
    structure: Structure,
    ion: str = "Li",
    oxidation_states: dict[str, float] | None = None,
    checkpoint: Path | None = None,
) -> CrystalPrediction:
    """Predict the barriers of a crystal from its voids.

    Parameters
    ----------
    structure
        With mobile ions; in any cell.
    ion
        Element symbol of the mobile ion, which must be the one that the network has learned.
    oxidation_states
        Charges by element symbol that win over any assignment.
    checkpoint
        Another checkpoint than the shipped one.

    Raises
    ------
    CandidateError
        The crystal has no charges or no network of voids, or the ion is another one.
    WeightsError
        The checkpoint is missing or damaged.
    """
    from ..transport.structures import assign_oxidation_states, check_structure

    info = checkpoint_info(checkpoint)
    refuse_other_ion(ion, info)
    check_structure(structure, ion, partial_occupancies=True)
    charged = assign_oxidation_states(structure, ion, oxidation_states)
    return predict_graph(build_interstitial_graph(charged, ion, graph_settings(info)), checkpoint)


def predict_network(
    network: InterstitialNetwork,
    oxidation_states: dict[str, float] | None = None,
    checkpoint: Path | None = None,
) -> CrystalPrediction:
    """Predict the barriers of a crystal whose interstitial network is there already, in any cell.

    The network serves if it has charges and was built with the settings that the checkpoint has learned with;
    otherwise another one is built.

    Parameters
    ----------
    network
        The crystal's network.
    oxidation_states
        Charges by element symbol that were given for it.
    checkpoint
        Another checkpoint than the shipped one.

    Raises
    ------
    CandidateError, WeightsError
        As :func:`predict_crystal`.
    """
    info = checkpoint_info(checkpoint)
    refuse_other_ion(network.ion, info)
    settings = graph_settings(info)
    if not network.oxidation_states_from or not _same_voids(network.settings, settings.network):
        return predict_crystal(network.structure, network.ion, oxidation_states, checkpoint)
    if not settings.network.bond_valence:
        network = replace(network, energies_eV=None, bottleneck_energies_eV=None)
    return predict_graph(graph_of_network(network, settings), checkpoint)


def _same_voids(built: InterstitialNetworkSettings, learned: InterstitialNetworkSettings) -> bool:
    """Whether a network holds all that one with the learned settings would hold."""
    if built.bond_valence and not learned.bond_valence:
        # Energies may be left out afterwards, unless voids were merged by them.
        return built.merge_close_A == 0 and replace(built, bond_valence=False) == learned
    return built == learned


def refuse_other_ion(ion: str, info: dict[str, Any]) -> None:
    """Raise a ``CandidateError`` for an ion that the network has not learned."""
    if ion != info["ion"]:
        raise CandidateError(
            f"The interstitial network has learned barriers of {info['ion']} only; it cannot speak of {ion}.",
            Reason.UNSUPPORTED_ELEMENT,
        )


def graph_settings(info: dict[str, Any]) -> InterstitialGraphSettings:
    """Settings of the graphs that the network has learned from."""
    from ..transport.interstitial_network import InterstitialNetworkSettings

    raw = dict(info["graph"])
    # Energies cost time and are not read, unless the network starts from them.
    network = {**raw.pop("network"), "bond_valence": info["settings"]["energies"]}
    return InterstitialGraphSettings(network=InterstitialNetworkSettings(**network), **raw)


def predict_graph(graph: InterstitialGraph, checkpoint: Path | None = None) -> CrystalPrediction:
    """Predict the barriers of a crystal whose graph is there already.

    Raises
    ------
    CandidateError
        The answer is not a finite number.
    WeightsError
        The checkpoint is missing or damaged.
    """
    from .interstitial_ensembles import species_of
    from .interstitial_training import predicted_logarithms
    from .percolating_network import percolating_data

    ensemble = _loaded(checkpoint)
    strange = sorted(species_of(graph) - set(ensemble.info["species"]))
    data = percolating_data(graph, ensemble.recipe.settings, table=ensemble.table)  # type: ignore[arg-type]
    mean, sigma = (values[0] for values in predicted_logarithms(ensemble.recipe, ensemble.networks, [data]))
    sigma = sigma * np.array(ensemble.info["sigma_scales"])
    if strange:
        sigma = sigma * ensemble.info["unfamiliar_anion"]["factor"]
    barriers = np.exp(mean)
    if not (np.isfinite(barriers).all() and np.isfinite(sigma).all()):
        raise CandidateError(
            "The interstitial network's answer for this crystal is not a finite number; leave it to the stages that "
            "use a potential.",
            Reason.NON_FINITE_ENERGY,
        )
    return CrystalPrediction(
        barriers_eV=_three(barriers),
        sigmas_eV=_three(barriers * np.sinh(np.minimum(sigma, 3.0))),
        sigmas_log=_three(sigma),
        unfamiliar_species=tuple(strange),
        interstices=len(graph.interstice_nodes),
    )


def _three(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c


def _loaded(checkpoint: Path | None) -> LoadedEnsemble:
    file = checkpoint or CHECKPOINT
    if not file.is_file():
        raise WeightsError(f"The interstitial network's file {file} is missing; reinstall hopflow or train one.")
    return _load_once(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load_once(file: Path, modified_ns: int) -> LoadedEnsemble:  # noqa: ARG001 (part of the key)
    from .interstitial_ensembles import load_interstitial_ensemble

    return load_interstitial_ensemble(file)
