"""The interstitial network as a document, and the files that it is written to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..learning.interstitial_prediction import CrystalPrediction
    from ..transport.interstitial_network import InterstitialNetwork

WRITE_SUFFIXES = (".json", ".cif")
FIGURE_SUFFIXES = (".html",)

VOID_ELEMENT, BOTTLENECK_ELEMENT = "He", "Ne"
"""What interstices and bottlenecks are called in a CIF; noble gases hardly ever occur in the crystals themselves."""

SAME_PLACE_A = 0.01
"""Points closer than this (Angstrom) would be one site to readers of a CIF."""


def summary(network: InterstitialNetwork) -> dict[str, Any]:
    """Connection values, recovery, and one interstice and segment of each kind; lengths in Angstrom, energies in eV."""
    graph = network.graph
    lengths = network.segment_lengths_A()
    framework = network.framework
    radii: dict[str, list[float]] = {}
    for species, radius in zip(framework.species, network.framework_radii_A.tolist(), strict=True):
        known = radii.setdefault(species, [])
        if round(radius, 4) not in known:
            known.append(round(radius, 4))
    counts = np.bincount(graph.orbits) if len(graph.orbits) else np.empty(0, dtype=int)
    segment_counts = np.bincount(graph.edge_orbits) if len(graph.edge_orbits) else np.empty(0, dtype=int)
    return {
        "formula": network.structure.composition.remove_charges().reduced_formula,
        "ion": network.ion,
        "connection_values_A": list(network.connection_values_A),
        "segment_values_A": list(network.segment_values_A),
        "limiting_bottlenecks_frac_coords": [list(point) for point in network.limiting_bottlenecks],
        "largest_radius_A": network.largest_radius_A,
        "passable_radius_A": network.passable_radius_A,
        "migrant_alpha": network.migrant_alpha,
        "dimension": network.dimension,
        "interstices": len(graph.radii_A),
        "segments": len(graph.edges),
        "operations": network.operations,
        "radii_A": {species: sorted(values) for species, values in sorted(radii.items())},
        "radii_from": sorted(set(framework.sources)),
        "oxidation_states_from": network.oxidation_states_from or None,
        "recovered_fraction": network.recovered_fraction,
        "recovery": [
            {
                "site": each.site,
                "interstice_A": each.interstice_A,
                "bottleneck_A": each.bottleneck_A,
                "face_centre_A": each.face_centre_A,
                "recovered": each.recovered,
            }
            for each in network.recovery
        ],
        "unique_interstices": [
            {**_interstice(network, int(k)), "count": int(counts[graph.orbits[k]])} for k in network.unique_interstices
        ],
        "unique_segments": [
            {**_segment(network, int(k), lengths), "count": int(segment_counts[graph.edge_orbits[k]])}
            for k in network.unique_segments
        ],
        "warnings": list(network.warnings),
        "seconds": network.seconds,
    }


def full_document(network: InterstitialNetwork) -> dict[str, Any]:
    """Every interstice and segment of the cell, with the cell, besides what the summary says."""
    lengths = network.segment_lengths_A()
    document = summary(network)
    del document["unique_interstices"], document["unique_segments"]
    document["lattice_A"] = network.lattice.tolist()
    document["framework"] = [
        {"site": int(site), "species": species, "frac_coords": place, "radius_A": radius, "radius_from": source}
        for site, species, place, radius, source in zip(
            network.framework.sites,
            network.framework.species,
            network.framework_frac_coords.tolist(),
            network.framework_radii_A.tolist(),
            network.framework.sources,
            strict=True,
        )
    ]
    document["interstices"] = [_interstice(network, k) for k in range(len(network.graph.radii_A))]
    document["segments"] = [_segment(network, k, lengths) for k in range(len(network.graph.edges))]
    return document


def _interstice(network: InterstitialNetwork, k: int) -> dict[str, Any]:
    graph = network.graph
    return {
        "index": k,
        "label": int(graph.orbits[k]),
        "kind": "vertex" if graph.vertices[k] else "face centre",
        "frac_coords": graph.frac_coords[k].tolist(),
        "radius_A": float(graph.radii_A[k]),
        "energy_eV": None if network.energies_eV is None else float(network.energies_eV[k]),
    }


def _segment(network: InterstitialNetwork, k: int, lengths: np.ndarray) -> dict[str, Any]:
    graph = network.graph
    start, end = graph.edges[k].tolist()
    energies = network.bottleneck_energies_eV
    return {
        "label": int(graph.edge_orbits[k]),
        "from": start,
        "to": end,
        "image": graph.images[k].tolist(),
        "from_label": int(graph.orbits[start]),
        "to_label": int(graph.orbits[end]),
        "bottleneck_frac_coords": graph.bottleneck_frac_coords[k].tolist(),
        "bottleneck_radius_A": float(graph.bottleneck_radii_A[k]),
        "bottleneck_energy_eV": None if energies is None else float(energies[k]),
        "length_A": float(lengths[k]),
    }


def write_network(network: InterstitialNetwork, path: Path) -> str:
    """Write the network and say what was written.

    ``.json`` holds everything. ``.cif`` is for viewers such as VESTA: the framework with an atom He for every
    interstice and Ne for every bottleneck, named It and Bn with the number of their kind. A bottleneck at the end of
    its segment is left out, because no two atoms of a CIF may have one place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps(full_document(network), indent=1) + "\n")
        return f"{path} holds {len(network.graph.radii_A)} interstices and {len(network.graph.edges)} segments"
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    graph = network.graph
    sites = [network.structure[int(k)] for k in network.framework.sites]
    apart = _apart(graph.frac_coords, graph.bottleneck_frac_coords, network.lattice)
    shown = Structure(
        network.lattice,
        [
            *(site.species for site in sites),
            *[VOID_ELEMENT] * len(graph.frac_coords),
            *[BOTTLENECK_ELEMENT] * len(apart),
        ],
        np.concatenate([network.framework_frac_coords, graph.frac_coords, graph.bottleneck_frac_coords[apart]]) % 1.0,
        labels=[
            *(site.label for site in sites),
            *(f"It{label}" for label in graph.orbits),
            *(f"Bn{label}" for label in graph.edge_orbits[apart]),
        ],
    )
    path.write_text(str(CifWriter(shown)))
    return f"{path} holds the framework, interstices as {VOID_ELEMENT} and bottlenecks as {BOTTLENECK_ELEMENT}"


def _apart(voids: np.ndarray, bottlenecks: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Indices of the bottlenecks that lie neither on an interstice nor on a bottleneck before them."""
    from ..transport.periodic_points import neighbour_pairs

    pairs, _ = neighbour_pairs(np.concatenate([voids, bottlenecks]), lattice, SAME_PLACE_A)
    later = pairs.max(axis=1) - len(voids)
    return np.setdiff1d(np.arange(len(bottlenecks)), later[later >= 0])


def sentence(document: dict[str, Any]) -> str:
    """What a person wants to know first."""
    ion, sites = document["ion"], len(document["recovery"])
    one, two, three = document["connection_values_A"]
    parts = [
        f"{document['formula']}, {ion}: spheres of {one:.2f} / {two:.2f} / {three:.2f} Å pass in 1 / 2 / 3 directions"
    ]
    if document["passable_radius_A"] is not None:
        parts.append(f"{ion} needs {document['passable_radius_A']:.2f} Å and passes in {document['dimension']}")
    parts.append(
        f"{document['interstices']} interstices ({len(document['unique_interstices'])} kinds), "
        f"{document['segments']} segments ({len(document['unique_segments'])} kinds)"
    )
    parts.append(f"{round(document['recovered_fraction'] * sites)} of {sites} {ion} sites recovered")
    if document.get("prediction"):
        found = document["prediction"]
        barriers = predicted_text(found["barriers_eV"], found["sigmas_eV"])
        parts.append(f"predicted bond-valence barriers {barriers} in 1 / 2 / 3 directions")
        if found["unfamiliar_species"]:
            parts[-1] += f" (never seen: {', '.join(found['unfamiliar_species'])})"
    return "; ".join(parts)


def prediction_document(network: InterstitialNetwork, oxidation_states: dict[str, float] | None) -> dict[str, Any]:
    """Barriers that the shipped interstitial network predicts; energies in eV.

    Parameters
    ----------
    network
        The crystal's network.
    oxidation_states
        Charges by element symbol that were given for it.

    Returns
    -------
    dict
        ``prediction`` and ``warnings``. Where there is none, the first is None and a warning says why.

    Raises
    ------
    WeightsError
        The checkpoint is missing or damaged.
    """
    from ..learning.interstitial_prediction import checkpoint_info, predict_network
    from ..transport.errors import CandidateError

    started = time.perf_counter()
    try:
        found: CrystalPrediction = predict_network(network, oxidation_states)
    except CandidateError as error:
        return {"prediction": None, "warnings": [f"No prediction: {error}"]}
    strangers = " and ".join(found.unfamiliar_species)
    prediction = {
        "barriers_eV": list(found.barriers_eV),
        "sigmas_eV": list(found.sigmas_eV),
        "sigmas_log": list(found.sigmas_log),
        "unfamiliar_species": list(found.unfamiliar_species),
        "weights_sha256": checkpoint_info()["sha256"],
        "seconds": time.perf_counter() - started,
    }
    warnings = [f"The interstitial network has never seen {strangers}; its sigmas are widened."] if strangers else []
    return {"prediction": prediction, "warnings": warnings}


def predicted_text(barriers_eV: list[float], sigmas_eV: list[float]) -> str:
    """Three barriers and their standard deviations for a person."""
    pairs = zip(barriers_eV, sigmas_eV, strict=True)
    return " / ".join(f"{barrier:.3f} ± {sigma:.3f}" for barrier, sigma in pairs) + " eV"
