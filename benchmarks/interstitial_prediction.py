"""Barriers that the interstitial network predicts: three crystals beside the literature, seconds, unknown anions.

    python benchmarks/interstitial_prediction.py TRAINING [--structures 60]

``TRAINING`` is the output folder of ``hopflow train interstitial``. Each crystal is judged by the members that saw
nothing of its chemical system. Seconds are those of one thread. The structures for timing and those without
bond-valence parameters come from ``materials_project_li`` under ``HOPFLOW_SHARED`` (by default ``../shared``); without
it these parts are left out.
"""

import argparse
import gzip
import json
import os
import random
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data" / "materials_project_li"

#: S. Shi et al., table 2 (eV): the network's prediction, bond valences (SPSE), experiment.
PAPER = {"Li3N": (0.21, 0.21, 0.13), "Li7La3Zr2O12": (0.39, 0.46, 0.32), "LiFePO4": (0.38, 0.39, 0.48)}


def literature(training: Path) -> None:
    """The three crystals of the paper's table 2."""
    import numpy as np
    from hopflow.learning.interstitial_ensembles import load_interstitial_ensemble
    from hopflow.learning.interstitial_graphs import build_interstitial_graph
    from hopflow.learning.interstitial_prediction import graph_settings
    from hopflow.learning.interstitial_training import predicted_logarithms
    from hopflow.learning.percolating_network import percolating_data
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation
    from hopflow.transport.structures import assign_oxidation_states
    from pymatgen.core import Structure

    ensemble = load_interstitial_ensemble(training / "interstitial_network.pt")
    folds = json.loads((training / "held_out.json").read_text())["fold_of_system"]
    print("| crystal | here: network | here: bond valence, exact 1D | paper: network | paper: SPSE | experiment |")
    print("|---|---|---|---|---|---|")
    for formula, (network_eV, spse_eV, measured_eV) in PAPER.items():
        structure = assign_oxidation_states(Structure.from_file(ROOT / "examples" / "demo" / f"{formula}.cif"), "Li")
        exact_eV = bond_valence_percolation(structure, "Li", BondValenceSettings(spacing_A=0.25)).barriers_eV[0]
        graph = build_interstitial_graph(structure, "Li", graph_settings(ensemble.info))
        data = percolating_data(graph, ensemble.recipe.settings, table=ensemble.table)
        fold = folds.get(structure.composition.chemical_system)
        members = ensemble.networks if fold is None else ensemble.networks[fold : fold + 1]
        mean, sigma = predicted_logarithms(ensemble.recipe, members, [data])
        barrier_eV = float(np.exp(mean[0, 0]))
        sigma_eV = barrier_eV * float(np.sinh(sigma[0, 0] * ensemble.info["sigma_scales"][0]))
        print(
            f"| {formula} | {barrier_eV:.2f} ± {sigma_eV:.2f} | {exact_eV:.2f} | {network_eV:.2f} | {spse_eV:.2f} | "
            f"{measured_eV:.2f} |"
        )


def rows_of(wanted: set[str] | None = None) -> dict[str, dict[str, Any]]:
    """Rows of the data by material id."""
    with gzip.open(FOLDER / "structures.jsonl.gz", "rt") as stream:
        found = (json.loads(line) for line in stream if line.strip())
        return {row["material_id"]: row for row in found if wanted is None or row["material_id"] in wanted}


def seconds(number: int, training: Path) -> None:
    """Network and prediction beside the exact bond-valence barrier, on the same crystals in one run."""
    import numpy as np
    from hopflow.learning.interstitial_graphs import build_interstitial_graph
    from hopflow.learning.interstitial_prediction import graph_settings, predict_graph
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import assign_oxidation_states, structure_from_row

    checkpoint = training / "interstitial_network.pt"
    info = json.loads((training / "interstitial_network.json").read_text())
    held_out = json.loads((training / "held_out.json").read_text())["material_id"]
    chosen = random.Random(0).sample(sorted(held_out), number + 1)
    rows = rows_of(set(chosen))
    times: dict[str, list[float]] = {"graph": [], "prediction": [], "bond valence": []}
    atoms = []
    for name in chosen:
        try:
            structure = assign_oxidation_states(structure_from_row(rows[name]), "Li")
            marks = [time.perf_counter()]
            graph = build_interstitial_graph(structure, "Li", graph_settings(info))
            marks.append(time.perf_counter())
            predict_graph(graph, checkpoint)
            marks.append(time.perf_counter())
            bond_valence_percolation(structure, "Li", BondValenceSettings(spacing_A=0.25))
            marks.append(time.perf_counter())
        except CandidateError:
            continue
        atoms.append(len(structure))
        for key, value in zip(times, np.diff(marks), strict=True):
            times[key].append(float(value))
    # The first crystal pays for loading and compiling.
    table = {key: np.array(values[1:]) for key, values in times.items()}
    network = table["graph"] + table["prediction"]
    print(f"\n{len(network)} crystals of {np.mean(atoms[1:]):.0f} atoms on average, one thread, seconds a crystal:\n")
    print("| step | mean | median | highest |\n|---|---|---|---|")
    for key, values in {**table, "graph and prediction": network}.items():
        print(f"| {key} | {values.mean():.3f} | {np.median(values):.3f} | {values.max():.3f} |")
    ratio = np.exp(np.mean(np.log(network / table["bond valence"])))
    print(f"\ngraph and prediction / bond valence: {ratio:.2f} (geometric mean)")


def unknown(dataset: Path, training: Path) -> None:
    """What the network says where the bond-valence table has no parameters."""
    import numpy as np
    from hopflow.learning.interstitial_dataset import load_dataset
    from hopflow.learning.interstitial_prediction import predict_graph

    crystals = [crystal for crystal in load_dataset(dataset).crystals if crystal.unlabelled == "missing_parameters"]
    answers = [(crystal, predict_graph(crystal.graph, training / "interstitial_network.pt")) for crystal in crystals]
    barriers_eV = np.array([answer.barriers_eV[0] for _, answer in answers])
    sigmas_log = np.array([answer.sigmas_log[0] for _, answer in answers])
    strange = np.array([bool(answer.unfamiliar_species) for _, answer in answers])
    species = Counter(name for _, answer in answers for name in answer.unfamiliar_species)
    print(
        f"\n{len(answers)} crystals without bond-valence parameters: 1D barriers of {np.quantile(barriers_eV, 0.1):.2f}"
        f" to {np.quantile(barriers_eV, 0.9):.2f} eV (10 to 90 %), {(barriers_eV <= 0.5).sum()} of at most 0.5 eV; "
        f"{strange.sum()} with a species that no training crystal has ({dict(species.most_common(8))}); median sigma "
        f"of the logarithm {np.median(sigmas_log[strange]):.2f} for these, {np.median(sigmas_log[~strange]):.2f} else."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path)
    parser.add_argument("--dataset", type=Path, default=ROOT / "build" / "interstitial_dataset")
    parser.add_argument("--structures", type=int, default=60)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    literature(options.training)
    if not (FOLDER / "structures.jsonl.gz").exists():
        print(f"{FOLDER} is not there; set HOPFLOW_SHARED for the parts that need its structures.")
        return
    seconds(options.structures, options.training)
    unknown(options.dataset, options.training)


if __name__ == "__main__":
    main()
