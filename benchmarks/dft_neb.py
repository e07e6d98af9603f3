"""A campaign that ends in a real DFT-NEB, and what the machine-learned band saves it.

    python benchmarks/dft_neb.py [--material mp-1960] [--home build/dft_neb] [--processes 2] [--converge]

Lithium oxide goes through bvse, gnn, neb and dft. MACE-MP-0 small makes a band of three images in a small supercell
(five Angstrom between its faces, 20 atoms; modest, so that two cores do it). Quantum ESPRESSO's pw.x brings it to rest:
PBE, PseudoDojo pseudopotentials, 816 eV, k-points 0.7 1/Å apart, lithium taken out as an ion, 0.05 eV/Å. The ledger
then holds the barriers of all four methods.

Beside it the same engine, cell and limits from the band that one has without a potential: end points as the crystal has
them, relaxed by DFT, and a straight line between. Printed: the ledger's values, steps and evaluations of both bands,
and with ``--converge`` the highest image less the first end point at a higher cutoff and on a denser mesh of k-points,
without moving an atom.

Everything is kept in ``--home``; a run that was killed goes on. pw.x must be on the PATH, and the pseudopotentials are
fetched where they are missing. The structure is looked for under ``HOPFLOW_SHARED`` (by default ``../shared``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hopflow.makers.dft_band import engine_settings
from hopflow.makers.settings import HandoffStageSettings
from hopflow.makers.stage import primitive_cell
from hopflow.potentials.espresso import PROCESSES, EspressoPotential, pw_command
from hopflow.potentials.pseudopotentials import fetch_set
from hopflow.transport.band_result import BandSettings
from hopflow.transport.bands import path_atoms
from hopflow.transport.errors import CandidateError
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import run_band
from hopflow.transport.structures import read_structures

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data" / "known_conductors"

IMAGES, MIN_LENGTH_A = 3, 5.0
DFT: dict[str, Any] = {
    "engine": "espresso",
    "vacancy_charge": "compensated",
    "espresso": {"cutoff_eV": 816.0, "kpoint_spacing_per_A": 0.7, "max_force_eV_per_A": 0.05},
}
DENSER = {"cutoff 1090 eV": {"cutoff_eV": 1090.0}, "k-points 0.45 1/Å apart": {"kpoint_spacing_per_A": 0.45}}


def command(home: Path, *words: str) -> None:
    """Run a command of hopflow, and end with it where it fails."""
    print(f"$ hopflow {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "hopflow", "--home", str(home), *words], check=True)


def campaign(file: Path, home: Path, name: str) -> dict[str, Any]:
    """The ledger's row after the whole campaign, and the dft stage's document."""
    from hopflow.workflows.console import Options, opened
    from hopflow.workflows.ledger import Ledger

    options = Options(launchpad=None, home=home, debug=False)
    spec = {
        "name": name,
        "materials": {"structures": str(file)},
        "stages": {
            "bvse": None,
            "gnn": None,
            "neb": {"settings": {"images": IMAGES, "min_length_A": MIN_LENGTH_A}},
            "dft": {"settings": DFT},
        },
    }
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "campaign.yaml").is_file():
        (home / "campaign.yaml").write_text(yaml.safe_dump(spec))
        command(home, "launch", str(home / "campaign.yaml"))
    command(home, "resume", name, "--retry-failed", "--workers", "1")
    command(home, "why", name, file.stem)
    with opened(options, read_only=True) as database:
        row = Ledger(database, name).row(file.stem)
        output = database.job_store.docs_store.query_one(
            {"uuid": row["stages"]["dft"]["job_uuid"]}, properties=["output"]
        )
    return next(each["document"] for each in output["output"]["results"] if each["material_id"] == file.stem)


def linear_band(file: Path, hop_id: str, folder: Path) -> tuple[Any, EspressoPotential]:
    """The same hop from end points and a line that no potential has touched."""
    # hops are named by the sites of the primitive cell, which the stages work on
    network = enumerate_hops(primitive_cell(read_structures(file)[0].structure), "Li")
    hop = next(each for each in network.hops if each.hop_id == hop_id)
    path = hop_path(network, hop, images=IMAGES + 2, min_length_A=MIN_LENGTH_A)
    settings = HandoffStageSettings(**DFT)
    image = path_atoms(path, path.path_frac_coords[0])
    engine = EspressoPotential(
        set(image.get_chemical_symbols()), engine_settings(settings, "Li", image), folder / "espresso"
    )
    limits = BandSettings(
        images=IMAGES,
        max_force_eV_per_A=settings.espresso.max_force_eV_per_A,
        endpoint_max_force_eV_per_A=settings.espresso.endpoint_max_force_eV_per_A,
        max_step_A=0.1,
        interpolation="path",
        split=False,
    )
    return run_band(path, engine, limits, folder / "linear.npz"), engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", default="mp-1960", help="a crystal of known_conductors")
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "dft_neb")
    parser.add_argument("--processes", type=int, default=2, help="images that run side by side")
    parser.add_argument("--converge", action="store_true", help="judge cutoff and k-points as well")
    options = parser.parse_args()
    file = DATA / f"{options.material}.cif"
    if not file.is_file():
        sys.exit(f"{file} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    try:
        pw_command()
    except CandidateError as error:
        sys.exit(f"Nothing is run: {error}")
    os.environ[PROCESSES] = str(options.processes)
    fetch_set("pseudodojo-pbe")
    home = options.home.resolve()
    began = time.perf_counter()
    document = campaign(file, home, f"{options.material}-dft")
    print(f"campaign: {time.perf_counter() - began:.0f} s of wall time by this call", flush=True)
    began = time.perf_counter()
    band, engine = linear_band(file, document["hop_id"], home / "linear")
    print(f"linear band: {time.perf_counter() - began:.0f} s of wall time by this call\n")
    own = document["bands"][0]
    print("| band | start | steps: end points, band | evaluations | s | barrier, eV | converged |")
    print("|---|---|---|---|---|---|---|")
    ends = own["evaluations"]
    print(
        f"| from MACE | relaxed by MACE | {document['images'][0]['steps']}, {own['steps']} | {ends} | "
        f"{own['seconds']:.0f} | {own['barrier_span_eV']:.3f} | {own['converged']} |"
    )
    span = "-" if band.barrier_span_eV is None else f"{band.barrier_span_eV:.3f}"
    print(
        f"| linear | sites of the crystal, straight line | {band.endpoint_steps}, {band.steps} | {band.evaluations} | "
        f"{band.seconds:.0f} | {span} | {band.converged} |"
    )
    print(f"\nevaluations saved by the machine-learned band: {1 - own['evaluations'] / band.evaluations:.0%}")
    print(document["method"])
    if options.converge:
        import io

        from ase.io import read

        images: Any = read(io.StringIO(document["images_extxyz"]), index=":", format="extxyz")
        heights = [image.get_potential_energy() for image in images]
        top = max(range(len(heights)), key=heights.__getitem__)
        print(f"\nhighest image less first, as computed: {heights[top] - heights[0]:.4f} eV")
        for what, change in DENSER.items():
            other = EspressoPotential(
                engine.pseudopotentials, replace(engine.settings, **change), home / "linear" / "espresso"
            )
            energies = other.energies([images[0], images[top]])
            print(f"{what}: {energies[1] - energies[0]:.4f} eV")


if __name__ == "__main__":
    main()
