"""The interstitial network beside CAVD 0.5.9 (Voro++ and Zeo++): voids, segments, radii and connection values.

    python benchmarks/network_vs_cavd.py --cavd-python PYTHON [--only mp-942733 ...]

CAVD is no dependency of hopflow (it names no licence); it runs in the interpreter that ``--cavd-python`` or
``HOPFLOW_CAVD_PYTHON`` names. Both get the spheres that CAVD chooses, and one core. Positions are compared in Angstrom,
the voids one by one, the segments by their sorted bottleneck radii.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data" / "known_conductors"

WORKER = """
import json, os, sys, tempfile, time
target = os.path.abspath(sys.argv[2])
source = os.path.abspath(sys.argv[1])
os.chdir(tempfile.mkdtemp())
from cavd.modules.struc_analysis import Struct_Analysis
from cavd.netstorage import connection_values_list
crystal = Struct_Analysis(source, "Li")
if isinstance(crystal.struct, list):  # 0.5.9 reads a list and expects one
    crystal.struct = crystal.struct[0]
started = time.process_time()
atoms = crystal.struct_to_AtomNetwork(removemigrant=True)
network = atoms.perform_voronoi_decomposition(rad_flag=True, saveVorCells=True, ntol=0.02)[0]
values = connection_values_list("x.resex", network)
seconds = time.process_time() - started
json.dump({
    "cell": [*map(float, crystal.struct.cell.abc), *map(float, crystal.struct.cell.angles)],
    "atoms": [[a[1], float(a[2]), list(map(float, a[4]))] for a in atoms.atoms],
    "nodes": [[list(map(float, n[2])), float(n[3])] for n in network.nodes],
    "edges": [float(e[3]) for e in network.edges],
    "values": [float(v) for v in values],
    "seconds": seconds,
}, open(target, "w"))
"""


def compared(theirs: dict[str, Any]) -> str:
    """One line about one crystal."""
    import numpy as np
    from hopflow.transport.network_symmetry import symmetric_framework
    from hopflow.transport.power_diagram import power_diagram
    from hopflow.transport.sphere_clearance import SphereClearance
    from hopflow.transport.void_graph import merge_coincident, void_graph
    from hopflow.transport.widest_sphere import widest_percolating_radii_A
    from pymatgen.core import Lattice

    lattice = Lattice.from_parameters(*theirs["cell"])
    frac, radii = np.array([a[2] for a in theirs["atoms"]]), np.array([a[1] for a in theirs["atoms"]])
    kinds = np.unique([f"{a[0]} {a[1]:.5f}" for a in theirs["atoms"]], return_inverse=True)[1]
    started = time.process_time()
    symmetry = symmetric_framework(lattice.matrix, frac, kinds, 0.01)
    diagram = power_diagram(symmetry.lattice, symmetry.frac_coords, radii)
    clearance = SphereClearance(symmetry.lattice, symmetry.frac_coords, radii)
    whole = void_graph(diagram, clearance, symmetry)
    graph = merge_coincident(whole, symmetry.lattice, 0.02)
    one, two, three = (-level for level in whole.percolation().thresholds_eV)
    between = time.process_time()
    free, _ = widest_percolating_radii_A(clearance, (one, two, three))
    seconds, more = between - started, time.process_time() - between
    nodes = np.array([n[0] for n in theirs["nodes"]]) % 1.0
    apart = lattice.get_all_distances(nodes, whole.frac_coords)
    radius = np.abs(np.array([n[1] for n in theirs["nodes"]]) - whole.radii_A[apart.argmin(axis=1)]).max()
    edges = np.sort(theirs["edges"])[::2]  # CAVD lists both directions
    bottleneck = np.abs(edges - np.sort(graph.bottleneck_radii_A)).max() if len(edges) == len(graph.edges) else np.nan
    values = np.abs(np.sort(theirs["values"])[::-1] - [one, two, three]).max()
    return (
        f"{len(nodes)} | {len(graph.radii_A)} | {len(edges)} | {len(graph.edges)} | {apart.min(axis=1).max():.1e} | "
        f"{apart.min(axis=0).max():.3f} | {radius:.1e} | {bottleneck:.1e} | {values:.1e} | "
        f"{max(np.array(free) - [one, two, three]):.3f} | {theirs['seconds']:.2f} | {seconds:.2f} | {more:.2f}"
    )


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cavd-python", default=os.environ.get("HOPFLOW_CAVD_PYTHON", sys.executable))
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    if not FOLDER.is_dir():
        raise SystemExit(f"no folder {FOLDER}; name the shared data with HOPFLOW_SHARED")
    os.environ["OMP_NUM_THREADS"] = "1"
    columns = (
        "crystal", "voids CAVD", "ours", "segments CAVD", "ours", "farthest of its voids from ours / Å",
        "of ours from its / Å", "radius / Å", "bottleneck / Å", "connection value / Å", "gained beside segments / Å",
        "s CAVD", "s ours", "s beside",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    from pymatgen.core import Structure

    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(FOLDER.glob("*.cif")):
            if chosen.only and file.stem not in chosen.only:
                continue
            name = f"| {file.stem} {Structure.from_file(file).composition.reduced_formula} | "
            target = Path(folder) / f"{file.stem}.json"
            done = subprocess.run(
                [chosen.cavd_python, "-c", WORKER, str(file), str(target)], capture_output=True, text=True, check=False
            )
            if done.returncode or not target.exists():
                print(name + f"CAVD: {done.stderr.strip().splitlines()[-1][:100] if done.stderr else 'no answer'} |")
            else:
                print(name + compared(json.loads(target.read_text())) + " |", flush=True)


if __name__ == "__main__":
    main()
