"""The hand-off to DFT: VASP inputs of a nudged elastic band, or of ApproxNEB, from a machine-learned band.

Two ways lead from a band to VASP. :func:`write_handoff` writes a folder that a person carries to a cluster; it needs
no POTCARs. :func:`neb_flow` builds the jobflow flow that runs the same inputs through atomate2. Both take their
tags from :mod:`.vasp_inputs`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ase import Atoms

from ..transport.errors import BandError, HopflowError
from .approx_neb import insertion_band
from .dft_flows import of_category_dft
from .folders import MANIFEST, hop_folders, written_whole
from .handoff_recipe import recipe
from .vasp_inputs import HandoffSettings, electron_count, generators, hop_of, ordered_band, replace_endpoints

if TYPE_CHECKING:
    from atomate2.vasp.sets.base import VaspInputGenerator
    from jobflow import Flow
    from pymatgen.core import Structure
    from pymatgen.io.vasp.sets import VaspInputSet

__all__ = ["HandoffResult", "HandoffSettings", "neb_flow", "write_handoff"]

_RESULT_FILES = ("OUTCAR*", "vasprun.xml*", "OSZICAR*")
ENDPOINT_FOLDERS = ("endpoint_initial", "endpoint_final")


@dataclass(frozen=True)
class HandoffResult:
    """What was written.

    Attributes
    ----------
    folder
        The hand-off folder.
    images
        Moving images, end points not counted (VASP's ``IMAGES``).
    atoms, formula
        Atoms per image and their formula.
    potcar
        ``written``: POTCAR files are in place; ``spec``: only their symbols are, in POTCAR.spec.
    potcar_symbols
        Symbols in the order of the POSCAR.
    potcar_reason
        Why POTCARs were or were not written, one sentence.
    electrons
        Valence electrons of the cell as computed, or None where the potential set does not list them.
    charge_e
        Charge of the cell in units of e.
    spin_polarised
        Whether ``ISPIN = 2``.
    hubbard_u_eV
        U by element, empty without any.
    moving_atom, hop_length_A
        Zero-based index in the POSCARs of the atom that moves most, and the length of its path in Angstrom.
    hashes
        SHA-256 by file, relative to the folder.
    notes
        What a reader must know, one sentence each.
    """

    folder: Path
    images: int
    atoms: int
    formula: str
    potcar: Literal["written", "spec"]
    potcar_symbols: tuple[str, ...]
    potcar_reason: str
    electrons: float | None
    charge_e: int
    spin_polarised: bool
    hubbard_u_eV: dict[str, float]
    moving_atom: int
    hop_length_A: float
    hashes: dict[str, str]
    notes: tuple[str, ...]


# -- the folder ---------------------------------------------------------------------------------------------------


def write_handoff(
    images: Sequence[Atoms | Structure],
    folder: Path | str,
    settings: HandoffSettings | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> HandoffResult:
    """Write a VASP band, started from these images, into a folder that a person can carry to a cluster.

    The folder appears whole or not at all: it is written beside its place and moved there. A folder of earlier inputs
    is replaced; one with VASP results is not touched.

    Parameters
    ----------
    images
        The band, end points included; ASE atoms (with initial magnetic moments, if any) or pymatgen structures
        (with a ``magmom`` site property, if any).
    folder
        Where the inputs go.
    settings
        Functional, charge, cutoff, build of VASP.
    metadata
        What is known of the band so far (barrier in eV, potential, weights hash, material id); kept in
        ``handoff.json``.

    Raises
    ------
    CandidateError, BandError, NonFiniteEnergyError
        The images are no band of one hop (see :func:`ordered_band`), or an element has no potential.
    HopflowError
        The folder holds VASP results, or something that is not a hand-off.
    """
    settings = settings or HandoffSettings()
    folder = Path(folder)
    refuse_to_overwrite(folder)
    band, order = ordered_band(images, settings.ion)
    if settings.method == "approx_neb":
        band, kept = insertion_band(band, settings.ion)
        order = [order[index] for index in kept]
    neb, endpoint = generators(band, settings)
    potcar_reason = _why_no_potcar(neb, band[0])

    with written_whole(folder) as staging:
        spec = potcar_reason is not None
        if settings.method == "approx_neb":
            incar = _write_images(staging, band, endpoint, spec)
        else:
            incar = _write_band(staging, band, neb, endpoint, spec)
        result = _result(folder, band, neb, incar, settings, potcar_reason)
        (staging / "README.txt").write_text(recipe(result, settings, metadata or {}), encoding="utf-8")
        hashes = {
            str(path.relative_to(staging)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        result = HandoffResult(**{**_fields(result), "hashes": hashes})
        (staging / MANIFEST).write_text(_record(result, settings, metadata or {}, order), encoding="utf-8")
    return result


def _write_band(
    folder: Path,
    band: Sequence[Structure],
    neb: VaspInputGenerator,
    endpoint: VaspInputGenerator,
    potcar_spec: bool,
) -> Mapping[str, Any]:
    """Write the inputs of a band and those that relax its ends; returns the band's INCAR."""
    from pymatgen.io.vasp import Poscar

    inputs = neb.get_input_set(band[0], potcar_spec=potcar_spec)
    _check_atom_order(inputs, band[0])
    inputs.write_input(folder)
    (folder / "POSCAR").unlink()  # VASP reads the images' own
    formula = band[0].composition.reduced_formula
    for number, image in enumerate(band):
        place = folder / f"{number:02d}"
        place.mkdir()
        Poscar(image, comment=f"{formula} image {number:02d} of {len(band) - 1:02d}").write_file(place / "POSCAR")
        # VASP 6 with HDF5 compares each image's KPOINTS with the head folder's
        inputs["KPOINTS"].write_file(place / "KPOINTS")
    for name, image in zip(ENDPOINT_FOLDERS, (band[0], band[-1]), strict=True):
        endpoint.get_input_set(image, potcar_spec=potcar_spec).write_input(folder / name)
    return inputs["INCAR"]


def _write_images(
    folder: Path, band: Sequence[Structure], endpoint: VaspInputGenerator, potcar_spec: bool
) -> Mapping[str, Any]:
    """Write the inputs of images that relax each by itself; returns their INCAR."""
    inputs: Any = None
    for number, image in enumerate(band):
        inputs = endpoint.get_input_set(image, potcar_spec=potcar_spec)
        _check_atom_order(inputs, image)
        inputs.write_input(folder / f"{number:02d}")
    return inputs["INCAR"]


def _check_atom_order(inputs: Mapping[str, Any], image: Structure) -> None:
    if [site.specie for site in inputs["POSCAR"].structure] != [site.specie for site in image]:
        raise BandError("The input set orders its atoms otherwise than the band; report this crystal.")


def refuse_to_overwrite(folder: Path) -> None:
    """Make sure that a folder may be replaced.

    Raises
    ------
    HopflowError
        It holds VASP results, or something that is not a hand-off.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not all((place / MANIFEST).is_file() for place in hop_folders(folder)):
        raise HopflowError(f"{folder} exists and is no earlier hand-off; name another folder.")
    for pattern in _RESULT_FILES:
        for found in folder.rglob(pattern):
            raise HopflowError(f"{folder} holds VASP results ({found.name}); name another folder, or move them away.")


def _why_no_potcar(generator: VaspInputSet, structure: Structure) -> str | None:
    """None when POTCARs can be written, otherwise one sentence that says why not."""
    from pymatgen.io.vasp.inputs import PmgVaspPspDirError

    try:
        generator.get_input_set(structure, potcar_spec=False)
    except PmgVaspPspDirError:
        return "POTCARs were not written: PMG_VASP_PSP_DIR is not set."
    except OSError as error:
        return f"POTCARs were not written: {str(error).splitlines()[0]}"
    return None


def _result(
    folder: Path,
    band: Sequence[Structure],
    neb: VaspInputGenerator,
    incar: Mapping[str, Any],
    settings: HandoffSettings,
    potcar_reason: str | None,
) -> HandoffResult:
    moving, length = hop_of(band)
    species = list(dict.fromkeys(site.specie.symbol for site in band[0]))
    u_values = dict(zip(species, incar.get("LDAUU", ()), strict=False))
    charge = -settings.charge_of_ion() if settings.vacancy_charge == "compensated" else 0
    notes = []
    if settings.functional == "pbe+u" and not any(u_values.values()):
        notes.append("No Hubbard U is tabulated for this chemistry, so the inputs are plain PBE.")
    elif settings.functional == "pbe+u":
        notes.append(
            "The U values are those of the Materials Project, fitted with its older potentials: do not mix the total "
            "energies with that database; barriers are differences within one set."
        )
    if settings.vacancy_charge == "compensated":
        notes.append(
            f"The cell carries {charge:+d} e against a uniform background, which shifts total energies; end points and "
            "images have the same shift to leading order."
        )
    elif settings.method == "approx_neb":
        notes.append(f"A single {settings.ion} is inserted, with its electron, into the host without the others.")
        notes.append(
            "The ion is held in each image, at its place in the machine-learned band of the full crystal: no image "
            "climbs, and the path does not relax."
        )
    else:
        notes.append("The vacancy is neutral: the crystal is left with a hole, which may localise and follow the ion.")
    if not settings.vtst and settings.method == "neb":
        notes.append("Without VTST no image climbs: the highest image lies at or below the saddle point.")
    if any(abs(moment) >= 1 for moment in incar.get("MAGMOM", ())):
        notes.append("Moments start ferromagnetic unless the images carried others; antiferromagnets need their own.")
    return HandoffResult(
        folder=folder,
        images=len(band) - 2,
        atoms=len(band[0]),
        formula=band[0].composition.formula,
        potcar="written" if potcar_reason is None else "spec",
        potcar_symbols=tuple(neb.potcar_symbols),
        potcar_reason=potcar_reason or f"POTCARs of set {settings.potcar_functional} were found and written.",
        electrons=electron_count(band[0], settings),
        charge_e=charge,
        spin_polarised=incar.get("ISPIN") == 2,
        hubbard_u_eV={element: float(u) for element, u in u_values.items() if u},
        moving_atom=moving,
        hop_length_A=length,
        hashes={},
        notes=tuple(notes),
    )


def _fields(result: HandoffResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def _record(result: HandoffResult, settings: HandoffSettings, metadata: Mapping[str, Any], order: list[int]) -> str:
    """The text of ``handoff.json``."""
    from monty.json import jsanitize

    document = {
        "engine": "vasp",
        "settings": asdict(settings),
        "result": {key: value for key, value in _fields(result).items() if key != "folder"},
        "atom_order": order,
        "metadata": dict(metadata),
        "units": {
            "energy": "eV",
            "length": "angstrom",
            "force": "eV/angstrom",
            "magnetic_moment": "bohr_magneton",
            "charge": "elementary_charge",
        },
        "versions": {name: version(name) for name in ("atomate2", "pymatgen", "pymatgen-core")},
    }
    return json.dumps(jsanitize(document, recursive_msonable=True), indent=2, allow_nan=False) + "\n"


# -- the flow -----------------------------------------------------------------------------------------------------


def neb_flow(
    images: Sequence[Atoms | Structure],
    settings: HandoffSettings | None = None,
    name: str = "DFT-NEB",
    metadata: Mapping[str, Any] | None = None,
) -> Flow:
    """The same band as a jobflow flow: relax both end points, carry the band along, run it, collect the barrier.

    Five jobs, all of FireWorks category ``dft``. Building needs no POTCARs, running needs them and VASP. atomate2's
    maker from end points would interpolate anew and lose the band, so the chain is laid here.

    Parameters
    ----------
    images
        The band, end points included.
    settings
        As for :func:`write_handoff`.
    name
        Name of the flow; the names of its jobs begin with it.
    metadata
        Metadata put on every job.

    Raises
    ------
    CandidateError, BandError, NonFiniteEnergyError
        The images are no band of one hop (see :func:`ordered_band`), or an element has no potential.
    """
    from atomate2.vasp.jobs.core import RelaxMaker
    from atomate2.vasp.jobs.neb import NebFromImagesMaker, collect_neb_output
    from jobflow import Flow, job

    settings = settings or HandoffSettings()
    band, _ = ordered_band(images, settings.ion)
    neb, endpoint = generators(band, settings)
    # typed Any: atomate2 annotates its decorated make methods with a function
    first_maker: Any = RelaxMaker(name=f"{name} end point initial", input_set_generator=endpoint)
    last_maker: Any = RelaxMaker(name=f"{name} end point final", input_set_generator=endpoint)
    band_maker: Any = NebFromImagesMaker(name=f"{name} band", input_set_generator=neb)
    first, last = first_maker.make(band[0]), last_maker.make(band[-1])
    start = job(replace_endpoints)(band, first.output.structure, last.output.structure)
    start.name = f"{name} band on relaxed end points"
    run = band_maker.make(start.output)
    collect = collect_neb_output(
        [first.output.dir_name, last.output.dir_name], run.output.dir_name, store_calculations=False
    )
    collect.name = f"{name} barrier"
    flow = Flow([first, last, start, run, collect], output=collect.output, name=name)
    return of_category_dft(flow, metadata)
