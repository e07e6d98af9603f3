"""VASP inputs of a nudged elastic band: the settings, the checked band, and atomate2's input sets for both.

Three of atomate2's defaults are not kept (atomate2 0.1.5): its functional is PBEsol, here it is named in the settings;
its band runs at ``PREC = Normal`` beside end points at ``Accurate``; and without a climbing image it asks for
``IBRION = 2``, the conjugate gradient, which does not work on forces that a band has projected (VASP wiki, *SPRING*;
VTST documentation, *Force based optimizers*). Band and end points share every tag that changes the energy, because
the barrier is a difference between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from ase import Atoms

from ..transport.errors import BandError, CandidateError, NonFiniteEnergyError, Reason

if TYPE_CHECKING:
    from atomate2.vasp.sets.base import VaspInputGenerator
    from pymatgen.core import Structure

Method = Literal["neb", "approx_neb"]
Functional = Literal["pbe", "pbe+u", "pbesol"]
VacancyCharge = Literal["neutral", "compensated"]
Spin = Literal["auto", "on", "off"]
PotcarSet = Literal["PBE", "PBE_52", "PBE_54", "PBE_64"]

CLOSEST_CONTACT_A = 0.5
SHORTEST_HOP_A = 0.3
_GGA = {"pbe": "PE", "pbe+u": "PE", "pbesol": "PS"}
# d and f elements whose ions in ionic crystals have empty or full shells
_CLOSED_SHELL_METALS = frozenset({"Sc", "Y", "La", "Lu", "Zr", "Hf", "Zn", "Cd", "Hg"})


@dataclass(frozen=True)
class HandoffSettings:
    """What the DFT band is computed with.

    Attributes
    ----------
    method
        ``neb``: a nudged elastic band. ``approx_neb``: a single ion in the host without the others, see
        :mod:`.approx_neb`.
    functional
        ``pbe`` (default), ``pbe+u`` (Dudarev U values of the Materials Project, for oxides and fluorides of Co, Cr,
        Fe, Mn, Mo, Ni, V, W) or ``pbesol``.
    vacancy_charge
        ``neutral``: a neutral atom was removed, the crystal is left with a hole. ``compensated``: the ion was removed
        with its charge, so the cell keeps the electrons of the full crystal and VASP adds a uniform background
        charge; written as ``NELECT``.
    ion
        Element symbol of the migrating ion.
    ion_charge
        Charge of that ion in units of e; None takes its one common oxidation state.
    vtst
        VASP is built with the VTST code: climbing image and its L-BFGS optimiser. False writes tags that every VASP
        knows; its highest image then lies at or below the saddle point.
    encut_eV
        Plane-wave cutoff in eV.
    reciprocal_density
        k-points per reciprocal cell volume in Angstrom^-3, as pymatgen counts them.
    max_force_eV_per_A, endpoint_max_force_eV_per_A
        Where the band and the end points stop, eV/Angstrom.
    max_steps
        Ionic steps at most.
    spin
        ``auto`` switches spin polarisation on for open d and f shells, for given moments and for an odd electron
        count; ``on``; ``off``.
    potcar_functional
        Potential set in pymatgen's naming.
    user_incar
        INCAR tags that overrule everything above, in band and end points alike.
    """

    method: Method = "neb"
    functional: Functional = "pbe"
    vacancy_charge: VacancyCharge = "neutral"
    ion: str = "Li"
    ion_charge: int | None = None
    vtst: bool = False
    encut_eV: float = 520.0
    reciprocal_density: float = 64.0
    max_force_eV_per_A: float = 0.05
    endpoint_max_force_eV_per_A: float = 0.02
    max_steps: int = 200
    spin: Spin = "auto"
    potcar_functional: PotcarSet = "PBE_54"
    user_incar: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {
            "method": Method,
            "functional": Functional,
            "vacancy_charge": VacancyCharge,
            "spin": Spin,
            "potcar_functional": PotcarSet,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(get_args(allowed))}.")
        positive = ("encut_eV", "reciprocal_density", "max_force_eV_per_A", "endpoint_max_force_eV_per_A", "max_steps")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        if self.vacancy_charge == "compensated":
            if self.method == "approx_neb":
                raise ValueError("method approx_neb inserts the ion with its electron; vacancy_charge must be neutral.")
            self.charge_of_ion()

    def charge_of_ion(self) -> int:
        """Charge of the migrating ion in units of e.

        Raises
        ------
        ValueError
            The element has more than one common charge and ``ion_charge`` is not given.
        """
        if self.ion_charge is not None:
            return self.ion_charge
        from pymatgen.core import Element

        common = Element(self.ion).common_oxidation_states
        # copper, for one, is listed as +2 and migrates as +1
        if len(common) != 1 or (Element(self.ion).is_transition_metal and self.ion not in {"Ag", "Zn", "Cd"}):
            raise ValueError(f"{self.ion} migrates with more than one charge; set ion_charge.")
        return int(common[0])


# -- the band -----------------------------------------------------------------------------------------------------


def ordered_band(images: Sequence[Atoms | Structure], ion: str) -> tuple[list[Structure], list[int]]:
    """Check a band and bring it into the order that VASP's files share.

    INCAR (MAGMOM, LDAUU) and POTCAR follow the electronegativity order of pymatgen's input sets while image POSCARs
    follow the images, so all images are sorted the same way first. Coordinates are unwrapped: no atom jumps by a
    lattice vector between neighbouring images.

    Parameters
    ----------
    images
        The band, end points included, three images or more.
    ion
        Element symbol of the migrating ion.

    Returns
    -------
    The images, and for every atom of theirs its index in the images given.

    Raises
    ------
    BandError
        Too few or too many images; atoms, order or cell differ; the end points are the same; another element than
        the ion moves most.
    CandidateError
        Partial occupancy, or atoms on top of each other.
    NonFiniteEnergyError
        A coordinate is not a number.
    """
    if not 3 <= len(images) <= 100:
        raise BandError(f"The band has {len(images)} images; a DFT band needs 3 to 100, end points included.")
    raw = [_species_and_coordinates(image) for image in images]
    species, lattice, _, moments = raw[0]
    if not species:
        raise CandidateError("The images hold no atoms; give a relaxed band.", Reason.EMPTY_STRUCTURE)
    for number, (other_species, other_lattice, frac, _) in enumerate(raw):
        if sorted(other_species) != sorted(species):
            raise BandError(f"Image {number} has other atoms than image 0; a band keeps one composition.")
        if other_species != species:
            raise BandError(f"Image {number} lists its atoms in another order than image 0; keep one order.")
        if not np.allclose(other_lattice, lattice, atol=1e-4):
            raise BandError(f"Image {number} has another cell than image 0; relax end points at fixed cell.")
        if not np.all(np.isfinite(frac)):
            raise NonFiniteEnergyError(f"Image {number} has a coordinate that is not a number; rerun the band.")

    from pymatgen.core import Element, Structure

    order = sorted(range(len(species)), key=lambda i: Element(species[i]))
    frac = np.array([image[2][order] for image in raw])
    steps = np.diff(frac, axis=0)
    steps -= np.round(steps)
    frac = (frac[0] % 1.0) + np.concatenate([np.zeros_like(frac[:1]), np.cumsum(steps, axis=0)])
    symbols = [species[i] for i in order]
    properties = {} if moments is None else {"magmom": [float(moments[i]) for i in order]}
    band = [Structure(lattice, symbols, coords, site_properties=properties) for coords in frac]

    moving, _ = hop_of(band)
    if np.linalg.norm((frac[-1] - frac[0])[moving] @ lattice) < SHORTEST_HOP_A:
        raise BandError("The end points of the band are the same structure; the ion has nowhere to go.")
    if symbols[moving] != ion:
        raise BandError(f"{symbols[moving]} moves most in this band, not {ion}; check ion and atom order.")
    for number, structure in enumerate(band):
        if len(structure) > 1 and _closest_contact_A(structure) < CLOSEST_CONTACT_A:
            raise CandidateError(
                f"Two atoms of image {number} lie closer than {CLOSEST_CONTACT_A} Å; relax the band first.",
                Reason.CLOSE_CONTACT,
            )
    return band, order


def hop_of(band: Sequence[Structure]) -> tuple[int, float]:
    """Index of the atom that goes farthest between the end points, and the length of its path in Angstrom."""
    frac = np.array([image.frac_coords for image in band])
    lattice = band[0].lattice.matrix
    moving = int(np.argmax(np.linalg.norm((frac[-1] - frac[0]) @ lattice, axis=1)))
    length = np.linalg.norm(np.diff(frac[:, moving], axis=0) @ lattice, axis=1).sum()
    return moving, float(length)


def replace_endpoints(images: Sequence[Structure], initial: Structure, final: Structure) -> list[Structure]:
    """Put relaxed end points under a band and carry the inner images along.

    Image i of n moves by (1 - i/(n-1)) of what relaxation did to the first end point and i/(n-1) of what it did to the
    last, so that the band stays as smooth as it was. Atom order, cell, moments and charge stay those of the band.

    Raises
    ------
    BandError
        An end point has other atoms than the band.
    """
    shifts = []
    for old, new in ((images[0], initial), (images[-1], final)):
        if [site.specie.symbol for site in new] != [site.specie.symbol for site in old]:
            raise BandError("A relaxed end point has other atoms than the band; relax the end points of this band.")
        shift = new.frac_coords - old.frac_coords
        shifts.append(shift - np.round(shift))
    band = []
    for number, image in enumerate(images):
        share = number / (len(images) - 1)
        moved = image.copy()
        for index, frac in enumerate(image.frac_coords + (1 - share) * shifts[0] + share * shifts[1]):
            moved.replace(index, moved[index].species, coords=frac, properties=moved[index].properties)
        band.append(moved)
    return band


def _species_and_coordinates(
    image: Atoms | Structure,
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray | None]:
    """Element symbols, cell (3, 3) in Angstrom, fractional coordinates (atoms, 3), moments in Bohr magnetons."""
    if isinstance(image, Atoms):
        moments = image.arrays.get("initial_magmoms")
        if moments is not None and not np.any(moments):
            moments = None
        symbols, lattice = list(image.get_chemical_symbols()), np.array(image.cell)
        return symbols, lattice, image.get_scaled_positions(wrap=False), moments
    if not image.is_ordered:
        raise CandidateError("An image has partly occupied sites; order the structure first.", Reason.PARTIAL_OCCUPANCY)
    given = image.site_properties.get("magmom")
    moments = None if given is None else np.array([0.0 if m is None else float(m) for m in given])
    return [site.specie.symbol for site in image], image.lattice.matrix, image.frac_coords, moments


def _closest_contact_A(structure: Structure) -> float:
    distances = structure.distance_matrix
    return float(distances[~np.eye(len(structure), dtype=bool)].min())


# -- the input sets -----------------------------------------------------------------------------------------------


def generators(band: Sequence[Structure], settings: HandoffSettings) -> tuple[VaspInputGenerator, VaspInputGenerator]:
    """atomate2 input-set generators of the band and of its end points; the latter's are those of ApproxNEB's images.

    Every tag that changes the energy (functional, cutoff, k-points, precision, smearing, spin, charge) is the same in
    both.

    Raises
    ------
    CandidateError
        The potential set lists no potential for an element, or a compensated cell needs an electron count that it
        does not list.
    """
    from atomate2.vasp.sets.core import NebSetGenerator, RelaxConstVolSetGenerator

    electrons = electron_count(band[0], settings)
    shared: dict[str, Any] = {
        "GGA": _GGA[settings.functional],
        "ENCUT": settings.encut_eV,
        "PREC": "Accurate",
        "EDIFF": 1e-6,
        "ISMEAR": 0,
        "SIGMA": 0.05,
        "ISYM": 0,  # a hop breaks the symmetry that a symmetric start would impose on the forces
        "ISPIN": 2 if _spin_polarised(band[0], settings, electrons) else 1,
        "NSW": settings.max_steps,
        "LMIXTAU": None,
        **dict.fromkeys(("LAECHG", "LCHARG", "LELF", "LVTOT", "LWAVE"), False),
    }
    if settings.functional != "pbe+u":
        shared["LDAU"] = False
    if settings.vacancy_charge == "compensated":
        if electrons is None:
            raise CandidateError(
                f"Potential set {settings.potcar_functional} lists no electron count for an element of "
                f"{band[0].composition.reduced_formula}; choose vacancy_charge neutral or another potential set.",
                Reason.UNSUPPORTED_ELEMENT,
            )
        shared["NELECT"] = electrons
    path: dict[str, Any] = {"EDIFFG": -settings.max_force_eV_per_A}
    if not settings.vtst:
        path |= {"IBRION": 1, "NFREE": 2, "POTIM": 0.3}
    common: dict[str, Any] = {
        "user_kpoints_settings": {"reciprocal_density": settings.reciprocal_density},
        "user_potcar_functional": settings.potcar_functional,
    }
    neb = NebSetGenerator(
        num_images=len(band) - 2,
        climbing_image=settings.vtst,
        user_incar_settings=shared | path | settings.user_incar,
        **common,
    )
    # the images of ApproxNEB relax as end points do, and all of them to one limit
    limit = settings.max_force_eV_per_A if settings.method == "approx_neb" else settings.endpoint_max_force_eV_per_A
    endpoint = RelaxConstVolSetGenerator(
        user_incar_settings=shared | {"EDIFFG": -limit} | settings.user_incar, **common
    )
    return neb, endpoint


def electron_count(structure: Structure, settings: HandoffSettings) -> float | None:
    """Valence electrons of the cell under these settings, or None where the potential set does not list them.

    Counted from the ZVAL of pymatgen's table of VASP potentials, so that no POTCAR is needed.
    """
    from atomate2.vasp.sets.core import NebSetGenerator

    valence = _valence_electrons(settings.potcar_functional)
    try:
        symbols = NebSetGenerator(structure=structure, user_potcar_functional=settings.potcar_functional).potcar_symbols
    except KeyError as error:
        raise CandidateError(
            f"The VASP input set has no potential for {error.args[0]}; this element cannot be handed to DFT.",
            Reason.UNSUPPORTED_ELEMENT,
        ) from error
    if not all(symbol in valence for symbol in symbols):
        return None
    by_element = {symbol.split("_")[0]: valence[symbol] for symbol in symbols}
    neutral = sum(amount * by_element[element.symbol] for element, amount in structure.composition.items())
    return neutral + (settings.charge_of_ion() if settings.vacancy_charge == "compensated" else 0)


@cache
def _valence_electrons(potcar_functional: PotcarSet) -> dict[str, float]:
    """ZVAL by potential symbol, from the table that pymatgen recognises POTCARs by."""
    from monty.serialization import loadfn
    from pymatgen.io.vasp.inputs import POTCAR_STATS_PATH

    table = loadfn(POTCAR_STATS_PATH).get(potcar_functional, {})
    return {entry["symbol"]: float(entry["ZVAL"]) for entries in table.values() for entry in entries}


def _spin_polarised(structure: Structure, settings: HandoffSettings, electrons: float | None) -> bool:
    if settings.spin != "auto":
        return settings.spin == "on"
    if any(structure.site_properties.get("magmom", ())):
        return True
    symbols = [element.symbol for element in structure.composition.elements]
    return has_open_shell(symbols) or electrons is None or round(electrons) % 2 == 1


def has_open_shell(symbols: Iterable[str]) -> bool:
    """Whether an element is there whose ions may have an open d or f shell."""
    from pymatgen.core import Element

    metals = (Element(symbol) for symbol in set(symbols) - _CLOSED_SHELL_METALS)
    return any(metal.is_transition_metal or metal.is_lanthanoid or metal.is_actinoid for metal in metals)
