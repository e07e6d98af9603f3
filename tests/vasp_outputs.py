"""Folders of a VASP nudged elastic band, as VASP lays them out, with synthetic energies.

No DFT was run for them. The energy of the hop is an analytic double well along the straight path of one ion,

    E(u) = barrier (1 - u^2)^2 + difference ((3 u - u^3) / 4 + 1/2),        u from -1 to 1,

with springs that hold the ion on the path and every other atom in its place, so that barriers, forces and the saddle
are known exactly. The files repeat the layout of VASP 6 (``vasprun.xml``, ``OUTCAR``, ``CONTCAR``) and are read by
pymatgen and ASE like its own.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from pymatgen.core import Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar
from scipy.optimize import brentq

SPRING_EV_PER_A2 = 8.0
ATOM_EV = -4.2


@dataclass(frozen=True)
class DoubleWell:
    """The synthetic energy along the hop, in eV."""

    barrier_eV: float = 0.42
    difference_eV: float = 0.06

    def energy(self, u: float) -> float:
        return self.barrier_eV * (1 - u * u) ** 2 + self.difference_eV * ((3 * u - u**3) / 4 + 0.5)

    def slope(self, u: float) -> float:
        return -4 * self.barrier_eV * u * (1 - u * u) + 0.75 * self.difference_eV * (1 - u * u)

    @property
    def saddle(self) -> float:
        return brentq(self.slope, -0.5, 0.5, xtol=1e-14)


class HopCalculator(Calculator):
    """The double well and the springs, for a band whose end points are given."""

    implemented_properties = ("energy", "forces")

    def __init__(self, first: np.ndarray, last: np.ndarray, well: DoubleWell) -> None:
        super().__init__()
        self.rest, self.well = first, well
        self.moving = int(np.argmax(np.linalg.norm(last - first, axis=1)))
        step = last[self.moving] - first[self.moving]
        self.half = np.linalg.norm(step) / 2
        self.axis = step / (2 * self.half)
        self.middle = first[self.moving] + step / 2

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions - self.rest
        forces = -SPRING_EV_PER_A2 * away
        offset = self.atoms.positions[self.moving] - self.middle
        u = float(offset @ self.axis / self.half)
        across = offset - (offset @ self.axis) * self.axis
        forces[self.moving] = -SPRING_EV_PER_A2 * across - self.well.slope(u) / self.half * self.axis
        away[self.moving] = across
        energy = self.well.energy(u) + 0.5 * SPRING_EV_PER_A2 * float((away**2).sum()) + ATOM_EV * len(self.atoms)
        self.results = {"energy": energy, "forces": forces}


@dataclass
class Frame:
    """One ionic step."""

    structure: Structure
    energy_eV: float
    forces: np.ndarray


@dataclass
class Run:
    """What VASP wrote in one folder.

    ``electrons_converged`` tells of the last ionic step; ``whole`` is false where VASP was killed in the step after it.
    """

    frames: list[Frame]
    electrons_converged: bool = True
    whole: bool = True
    along_band: list[float] | None = None
    files: tuple[str, ...] = ("vasprun.xml", "OUTCAR", "CONTCAR")


@dataclass
class Band:
    """A band that has gone through VASP, to be written with whatever fault a test wants."""

    runs: list[Run]
    well: DoubleWell
    incar: dict[str, Any] = field(default_factory=dict)


def vacancy_images(host: Structure, supercell: Sequence[int], u_values: Sequence[float], ion: str = "Li") -> list:
    """Straight band of the shortest vacancy hop; image i has its ion at u_values[i]."""
    cell = host * supercell
    cell.remove_oxidation_states()
    cell = cell.get_sorted_structure()
    ions = [index for index, site in enumerate(cell) if site.specie.symbol == ion]
    start = ions[0]
    end = min(ions[1:], key=lambda other: cell.get_distance(start, other))
    _, image = cell[start].distance_and_image(cell[end])
    step = cell[end].frac_coords + image - cell[start].frac_coords
    images = []
    for u in u_values:
        structure = cell.copy()
        structure.replace(start, ion, coords=cell[start].frac_coords + (u + 1) / 2 * step)
        structure.remove_sites([end])
        images.append(structure)
    return images


def places(well: DoubleWell, images: int) -> list[float]:
    """Positions of the images along the path, the middle one at the saddle."""
    u_values = np.linspace(-1, 1, images)
    u_values[images // 2] = well.saddle
    return list(u_values)


def computed_band(images: Sequence[Structure], well: DoubleWell, steps: int = 3, settle_A: float = 0.15) -> Band:
    """Energies and forces of a band that comes to rest in so many ionic steps, from a little off the path."""
    first, last = images[0].cart_coords, images[-1].cart_coords
    calculator = HopCalculator(first, last, well)
    sideways = np.cross(calculator.axis, [0.31, 0.59, 0.74])
    runs = []
    for image in images:
        frames = []
        for step in range(steps):
            moved = image.copy()
            shift = settle_A * (1 - step / max(steps - 1, 1)) * sideways
            moved.translate_sites([calculator.moving], shift, frac_coords=False, to_unit_cell=False)
            frames.append(_frame(moved, calculator))
        runs.append(Run(frames))
    return Band(runs, well)


def _frame(structure: Structure, calculator: HopCalculator) -> Frame:
    symbols = [site.specie.symbol for site in structure]
    atoms = Atoms(symbols, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
    atoms.calc = calculator
    return Frame(structure, atoms.get_potential_energy(), atoms.get_forces())


def write_results(folder: Path, band: Band, endpoints: bool = True) -> Path:
    """Write a band's results over its inputs; the end points into the folders that the hand-off made for them.

    As the recipe says, CONTCAR and OUTCAR of the relaxed end points are copied into the first and last image folder.
    """
    tags = dict(Incar.from_file(folder / "INCAR")) | band.incar
    mesh = Kpoints.from_file(folder / "KPOINTS")
    last = len(band.runs) - 1
    for number, run in enumerate(band.runs):
        place = folder / f"{number:02d}"
        if number not in (0, last):
            write_run(place, run, tags, mesh)
        elif endpoints:
            own = folder / ("endpoint_initial" if number == 0 else "endpoint_final")
            write_run(own, run, dict(Incar.from_file(own / "INCAR")), mesh)
            if "CONTCAR" in run.files:
                shutil.copy(own / "CONTCAR", place / "POSCAR")
            if "OUTCAR" in run.files:
                shutil.copy(own / "OUTCAR", place / "OUTCAR")
    return folder


def write_run(folder: Path, run: Run, tags: dict[str, Any], mesh: Kpoints) -> None:
    """Write the output files of one image or end point."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[], str]] = {
        "vasprun.xml": lambda: vasprun_text(run, tags, mesh),
        "OUTCAR": lambda: outcar_text(run, tags),
        "CONTCAR": lambda: Poscar(run.frames[-1].structure).get_str(significant_figures=12),
    }
    for name in run.files:
        (folder / name).write_text(writers[name]())


# -- vasprun.xml --------------------------------------------------------------------------------------------------


def _rows(values: np.ndarray) -> str:
    return "\n".join("   <v> " + " ".join(f"{x:16.8f}" for x in row) + " </v>" for row in np.atleast_2d(values))


def _varray(name: str, values: np.ndarray) -> str:
    return f'  <varray name="{name}" >\n{_rows(values)}\n  </varray>'


def _structure(structure: Structure, name: str = "") -> str:
    lattice = structure.lattice
    head = f' <structure name="{name}" >' if name else " <structure>"
    parts = [head, "  <crystal>", _varray("basis", lattice.matrix), f'   <i name="volume"> {lattice.volume:.8f} </i>']
    parts += [_varray("rec_basis", lattice.inv_matrix.T), "  </crystal>"]
    return "\n".join([*parts, _varray("positions", structure.frac_coords), " </structure>"])


def _tag(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f'  <v name="{name}"> {" ".join(f"{float(x):.8f}" for x in value)}</v>'
    if isinstance(value, bool):
        return f'  <i type="logical" name="{name}"> {"T" if value else "F"}  </i>'
    if isinstance(value, int):
        return f'  <i type="int" name="{name}"> {value}</i>'
    if isinstance(value, float):
        return f'  <i name="{name}"> {value:.8f}</i>'
    return f'  <i type="string" name="{name}"> {value}</i>'


def _energies(energy: float, indent: str) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "\n".join([f"{indent}<energy>", *(f'{indent} <i name="{n}"> {energy:16.8f} </i>' for n in names),
                      f"{indent}</energy>"])  # fmt: skip


def vasprun_text(run: Run, tags: dict[str, Any], mesh: Kpoints) -> str:
    """The text of ``vasprun.xml``; a run that was killed ends within its next SCF cycle."""
    structure = run.frames[0].structure
    symbols = [site.specie.symbol for site in structure]
    species = list(dict.fromkeys(symbols))
    electronic = int(tags.get("NELM", 60))
    parameters = {"NELM": electronic, "NSW": int(tags.get("NSW", 0)), "IBRION": int(tags.get("IBRION", 1))}
    lines = ['<?xml version="1.0" encoding="ISO-8859-1"?>', "<modeling>", " <generator>"]
    lines += ['  <i name="program" type="string">vasp </i>', '  <i name="version" type="string">6.4.2  </i>',
              " </generator>", " <incar>", *(_tag(*tag) for tag in tags.items()), " </incar>"]  # fmt: skip
    divisions = " ".join(str(int(count)) for count in mesh.kpts[0])
    lines += [" <kpoints>", f'  <generation param="{mesh.style.name}">',
              f'   <v type="int" name="divisions"> {divisions} </v>', "  </generation>",
              _varray("kpointlist", np.zeros((1, 3))), _varray("weights", np.ones((1, 1))), " </kpoints>"]  # fmt: skip
    lines += [" <parameters>", ' <separator name="electronic" >', _tag("NELM", electronic), " </separator>"]
    lines += [_tag(name, value) for name, value in parameters.items()] + [" </parameters>", " <atominfo>"]
    lines += [f"  <atoms> {len(symbols)} </atoms>", f"  <types> {len(species)} </types>", '  <array name="atoms" >']
    lines += [
        "   <set>",
        *(f"    <rc><c>{s:2s}</c><c>{species.index(s) + 1:4d}</c></rc>" for s in symbols),
        "   </set>",
    ]
    lines += ["  </array>", '  <array name="atomtypes" >', "   <set>"]
    lines += [f"    <rc><c>{symbols.count(s):4d}</c><c>{s:2s}</c><c> 1.0</c><c> 1.0</c><c>  PAW_PBE {s} 2004 </c></rc>"
              for s in species]  # fmt: skip
    lines += ["   </set>", "  </array>", " </atominfo>", _structure(structure, "initialpos")]
    for number, frame in enumerate(run.frames, 1):
        unfinished_scf = number == len(run.frames) and not run.electrons_converged
        lines.append(" <calculation>")
        for left in reversed(range(electronic if unfinished_scf else 9)):
            lines += [
                "  <scstep>",
                _energies(frame.energy_eV + 0.4 * 0.3 ** (9 - left) * (left > 0), "   "),
                "  </scstep>",
            ]
        lines += [_structure(frame.structure), _varray("forces", frame.forces), _varray("stress", np.zeros((3, 3))),
                  _energies(frame.energy_eV, "  "), " </calculation>"]  # fmt: skip
    if run.whole:
        lines += [_structure(run.frames[-1].structure, "finalpos"), "</modeling>", ""]
    else:
        lines += [" <calculation>", "  <scstep>", _energies(run.frames[-1].energy_eV + 55.0, "   ")[:60]]
    return "\n".join(lines)


# -- OUTCAR -------------------------------------------------------------------------------------------------------


def _iteration(ionic: int, electronic: int, energy: float) -> list[str]:
    dashes = "-" * 39
    return [
        f"{dashes} Iteration {ionic:6d}({electronic:4d})  {dashes}",
        "",
        f"  free energy    TOTEN  = {energy:20.8f} eV",
        "",
        f"  energy without entropy = {energy:18.8f}  energy(sigma->0) = {energy:18.8f}",
        "",
    ]


def outcar_text(run: Run, tags: dict[str, Any]) -> str:
    """The text of ``OUTCAR``; a run that was killed ends within its next SCF cycle, after some energies of it."""
    structure = run.frames[0].structure
    symbols = [site.specie.symbol for site in structure]
    species = list(dict.fromkeys(symbols))
    potentials = [f" POTCAR:    PAW_PBE {symbol} 10Sep2004" for symbol in species]
    lines = [
        " vasp.6.4.2 20Jul23 (build Aug 01 2023) complex",
        " running on   16 total cores",
        *potentials,
        *potentials,
    ]
    lines += ["   ions per type =             " + "".join(f"{symbols.count(s):5d}" for s in species), ""]
    lines += [
        " k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=     48"
    ]
    lines += [f"   ISPIN  =      {int(tags.get('ISPIN', 1))}    spin polarized calculation?"]
    lines += [f"   IBRION = {int(tags.get('IBRION', 1)):6d}    ionic relax: 0-MD 1-quasi-New 2-CG"]
    lines += [
        " k-points in reciprocal lattice and weights: Gamma",
        "   0.00000000  0.00000000  0.00000000       1.000",
        "",
    ]
    lines += ["   total plane-waves  NPLWV =  110592", "", "", "-" * 104, "", ""]
    lines += [" k-point   1 :   0.0000 0.0000 0.0000  plane waves:    8123", ""]
    lines += [" maximum and minimum number of plane-waves per node :      8123     8123", ""]
    dashes = " " + "-" * 83
    for number, frame in enumerate(run.frames, 1):
        for electronic, off in enumerate((31.0, 0.2, 1e-4), 1):
            lines += _iteration(number, electronic, frame.energy_eV + off)
        if number < len(run.frames) or run.electrons_converged:
            lines.append("-" * 24 + " aborting loop because EDIFF is reached " + "-" * 40)
        else:
            lines.append("-" * 24 + " aborting loop EDIFF was not reached (unconverged) " + "-" * 29)
        lines += ["", "      direct lattice vectors                 reciprocal lattice vectors"]
        both = np.hstack([structure.lattice.matrix, structure.lattice.inv_matrix.T])
        lines += ["  " + "".join(f"{x:13.9f}" for x in row) for row in both]
        lines += ["", " POSITION                                       TOTAL-FORCE (eV/Angst)", dashes]
        table = np.hstack([frame.structure.cart_coords, frame.forces])
        lines += [" " + "".join(f"{x:13.5f}" for x in row[:3]) + "   " + "".join(f"{x:14.6f}" for x in row[3:])
                  for row in table]  # fmt: skip
        lines += [dashes, "    total drift:                                0.000000      0.000000      0.000000", ""]
        if run.along_band is not None:
            lines += [
                f"  NEB: projections on to tangent (spring, REAL)     0.000000 {run.along_band[number - 1]:12.6f}",
                "",
            ]
        lines += ["  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", "  " + "-" * 51]
        lines += [f"  free  energy   TOTEN  = {frame.energy_eV:18.8f} eV", ""]
        lines += [f"  energy  without entropy= {frame.energy_eV:18.8f}  energy(sigma->0) = {frame.energy_eV:18.8f}", ""]
    if run.whole:
        lines += [" reached required accuracy - stopping structural energy minimisation", ""]
        lines += [" General timing and accounting informations for this job:", " " + "=" * 56, ""]
        lines += [
            "                  Total CPU time used (sec):      1203.101",
            "                         Elapsed time (sec):      1210.250",
            "",
        ]
    else:
        lines += _iteration(len(run.frames) + 1, 1, run.frames[-1].energy_eV + 31.0)[:4]
        lines += _iteration(len(run.frames) + 1, 2, run.frames[-1].energy_eV + 0.7)[:5]
    return "\n".join(lines)
