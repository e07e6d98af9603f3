"""A program in the place of ``pw.x``: it reads its input and writes in its format, with pair energies for DFT's.

    python pair_pw.py [--fault electrons|crash|killed|empty] [--after N] -in espresso.pwi

What it takes from the input: cell, species and positions. ``--after`` lets so many runs pass before the fault; they are
counted in the file ``runs`` of the folder ``--count``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import numpy as np
from ase.io import read
from ase.units import create_units

# ASE reads outputs with the constants that the program has
UNITS = create_units("2006")
Bohr, Rydberg = UNITS["Bohr"], UNITS["Rydberg"]

sys.path.insert(0, str(Path(__file__).parent))


def head(atoms) -> str:
    alat = round(np.linalg.norm(atoms.cell[0]) / Bohr, 6)
    lines = [
        "",
        "     Program PWSCF v.6.7MaX starts on 27Nov2026 at 12: 0: 0 ",
        "",
        "     bravais-lattice index     =            0",
        f"     lattice parameter (alat)  = {alat:15.8f}  a.u.",
        f"     unit-cell volume          = {atoms.get_volume() / Bohr**3:15.4f} (a.u.)^3",
        f"     number of atoms/cell      = {len(atoms):12d}",
        f"     number of atomic types    = {len(set(atoms.get_chemical_symbols())):12d}",
        "",
        f"     celldm(1)={alat:11.6f}  celldm(2)=   0.000000  celldm(3)=   0.000000",
        "",
        "     crystal axes: (cart. coord. in units of alat)",
    ]
    for number, vector in enumerate(atoms.cell / Bohr / alat, 1):
        lines.append(f"               a({number}) = ( {vector[0]:14.9f} {vector[1]:14.9f} {vector[2]:14.9f} )  ")
    lines += ["", "   Cartesian axes", "", "     site n.     atom                  positions (alat units)"]
    for number, (symbol, place) in enumerate(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True), 1):
        x, y, z = place / Bohr / alat
        lines.append(f"     {number:5d}           {symbol:4s} tau({number:4d}) = ( {x:14.9f} {y:14.9f} {z:14.9f}  )")
    return "\n".join([*lines, "", "     iteration #  1     ecut=    30.00 Ry", ""])


def answer(energy_eV: float, forces: np.ndarray, kinds: list[int]) -> str:
    lines = [f"!    total energy              = {energy_eV / Rydberg:17.10f} Ry", ""]
    lines += ["     convergence has been achieved in   1 iterations", ""]
    lines += ["     Forces acting on atoms (cartesian axes, Ry/au):", ""]
    for number, (kind, force) in enumerate(zip(kinds, forces * Bohr / Rydberg, strict=True), 1):
        x, y, z = force
        lines.append(f"     atom {number:4d} type {kind:2d}   force = {x:14.10f} {y:14.10f} {z:14.10f}")
    return "\n".join([*lines, "", "     Total force =     0.000000     Total SCF correction =     0.000000", ""])


FOOT = "\n     PWSCF        :      0.90s CPU      1.20s WALL\n\n   JOB DONE.\n"
CRASH = f"\n {'%' * 80}\n     Error in routine cdiaghg (12):\n      problems computing cholesky\n {'%' * 80}\n\n"


def count(folder: str) -> int:
    """Which run this is, from 0."""
    file = Path(folder) / "runs"
    done = len(file.read_bytes()) if file.is_file() else 0
    with file.open("ab") as stream:
        stream.write(b".")
    return done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", choices=("electrons", "crash", "killed", "empty"))
    parser.add_argument("--after", type=int, default=0)
    parser.add_argument("--count", default=".")
    parser.add_argument("-in", dest="file")
    options = parser.parse_args()
    atoms = read(options.file, format="espresso-in")
    sys.stdout.write(head(atoms))
    sys.stdout.flush()
    run = count(options.count)
    if options.fault is not None and run >= options.after:
        if options.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if options.fault == "crash":
            sys.stdout.write(CRASH)
            sys.exit(1)
        if options.fault == "electrons":
            sys.stdout.write("     convergence NOT achieved after  80 iterations: stopping\n" + FOOT)
            sys.exit(2)
        return
    from pair_potential import PairPotential

    atoms.wrap()
    found = PairPotential().evaluate_sites(atoms)
    symbols = atoms.get_chemical_symbols()
    order = list(dict.fromkeys(symbols))
    sys.stdout.write(answer(found.energy_eV, found.forces_eV_per_A, [order.index(each) + 1 for each in symbols]) + FOOT)


if __name__ == "__main__":
    main()
