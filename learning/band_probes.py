"""What a universal potential says of a path in about a dozen evaluations: energies of its images, shortly relaxed.

A band that is relaxed to the end takes hundreds of forces. A few preconditioned steps for the ends and for the highest
image give most of the relaxation energy, and what is still missing is estimated from the curvature that these
steps have shown. So the result is no barrier but a description that a model learns from.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from ..transport.checkpoints import content_key, load_checkpoint, save_checkpoint
from ..transport.errors import CandidateError, Reason, StructureError
from ..transport.model_hessian import spring_preconditioner
from ..transport.optimizers import LimitedMemoryBFGS
from ..transport.paths import MigrationPath
from .path_graphs import GraphSettings, images_around_framework

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transport.energies import SiteEvaluation, SitePotential

IMAGES = 5

PROBE_FORMAT = 2
"""Changes when the same settings give other probes, so that stored ones are not taken for them."""

_SAME_END_EV = 2e-3
_SAME_QUARTER_EV = 5e-3
_SAME_FORCE_EV_PER_A = 0.02
_MEMORY = 8
_SAME_ATOM_A = 0.5
_LEAST_CHORD_A = 1e-3


@dataclass(frozen=True)
class ProbeSettings:
    """How a path is probed.

    Attributes
    ----------
    potential, dtype
        Registry name and precision; energies are compared within one cell, for which single precision is enough.
    steps
        Steps of each short relaxation.
    max_step_A
        Longest displacement of an atom in one step.
    largest_cell_atoms
        Cells with more framework atoms are cut down to a cluster round the path.
    cluster_radius_A
        Atoms farther than this from every image are left out of a cluster.
    free_radius_A
        Atoms of a cluster farther than this from every image stay where they are.
    """

    potential: str = "mace-mp-0-small"
    dtype: str = "float32"
    steps: int = 4
    max_step_A: float = 0.25
    largest_cell_atoms: int = 250
    cluster_radius_A: float = 8.5
    free_radius_A: float = 5.5


@dataclass(frozen=True)
class BandProbe:
    """The answers of a potential about one path.

    Attributes
    ----------
    energies_eV
        Of the images before relaxation, shape (images,).
    site_energies_eV
        Share of the migrating ion in them, shape (images,).
    descriptors
        The potential's description of the migrating ion in each image, shape (images, channels).
    relaxed_energies_eV
        After 0, 1, ... steps, shape (images, steps + 1); NaN for images that are not relaxed.
    expected_gains_eV
        What each further relaxation would still bring, as estimated after so many steps, same shape.
    largest_forces_eV_per_A
        Largest force on an atom after so many steps, same shape.
    displacements_A
        Norm of all displacements so far, same shape.
    atoms
        Atoms of an image.
    cluster
        Whether the cell was cut down.
    symmetric
        Whether both halves of the path are alike, so that one end stands for both.
    evaluations
        Energies asked of the potential, with forces or without.
    """

    energies_eV: np.ndarray
    site_energies_eV: np.ndarray
    descriptors: np.ndarray
    relaxed_energies_eV: np.ndarray
    expected_gains_eV: np.ndarray
    largest_forces_eV_per_A: np.ndarray
    displacements_A: np.ndarray
    atoms: int
    cluster: bool
    symmetric: bool
    evaluations: int


def probe_key(path: MigrationPath, settings: ProbeSettings) -> str:
    """What a stored probe depends on; the name of a registered potential stands for its weights."""
    return content_key(
        format=PROBE_FORMAT,
        settings=asdict(settings),
        ion=path.ion,
        lattice=np.asarray(path.lattice, dtype=float),
        species=list(path.framework_species),
        framework=np.asarray(path.framework_frac_coords, dtype=float),
        images=np.asarray(path.path_frac_coords, dtype=float),
    )


def stored_probe(path: MigrationPath, settings: ProbeSettings, folder: Path) -> BandProbe | None:
    """The probe that :func:`probe_path` has kept for a path, or None."""
    key = probe_key(path, settings)
    kept = load_checkpoint(_file(folder, key), key)
    if kept is None:
        return None
    plain: dict[str, Any] = {name: value if value.ndim else value.item() for name, value in kept.items()}
    return BandProbe(**plain)


def _file(folder: Path, key: str) -> Path:
    return folder / "probes" / f"{key[:32]}.npz"


def probe_path(
    path: MigrationPath, potential: SitePotential, settings: ProbeSettings | None = None, folder: Path | None = None
) -> BandProbe:
    """Ask a potential about one path.

    Parameters
    ----------
    path
        The path; its images first give way to the framework (see :func:`.path_graphs.give_way`).
    potential
        A potential that tells of each atom, loaded for ``settings.potential`` and ``settings.dtype``.
    settings
        How it is asked.
    folder
        Where the probe is kept, and taken from if it is there.

    Raises
    ------
    CandidateError
        The path is none (see :func:`.path_graphs.build_path_graph`), or holds an element that the potential does not
        know.
    NonFiniteEnergyError
        An energy or a force is not finite.
    """
    settings = settings or ProbeSettings()
    if folder is None:
        return _Probing(path, potential, settings).result()
    if (kept := stored_probe(path, settings, folder)) is not None:
        return kept
    probe = _Probing(path, potential, settings).result()
    key = probe_key(path, settings)
    save_checkpoint(
        _file(folder, key), key, {each.name: np.asarray(getattr(probe, each.name)) for each in fields(probe)}
    )
    return probe


class _Probing:
    """One path in the making."""

    def __init__(self, path: MigrationPath, potential: SitePotential, settings: ProbeSettings) -> None:
        self.settings = settings
        self.potential = potential
        self.evaluations = 0
        self.ion = path.ion
        self.images_A, kept = images_around_framework(path, GraphSettings(images=IMAGES))
        species = [symbol for symbol, stays in zip(path.framework_species, kept, strict=True) if stays]
        framework = np.asarray(path.framework_frac_coords, dtype=float).reshape(-1, 3)[kept] @ path.lattice
        self.framework = _written_once(Atoms(species, positions=framework, cell=path.lattice, pbc=True))
        self.cluster = False
        if len(self.framework) > settings.largest_cell_atoms:
            cut = _cluster(self.framework, self.images_A, settings.cluster_radius_A)
            # of a narrow cell the sphere holds many copies: then the cell itself is cheaper, and exact
            self.cluster = len(cut) < len(self.framework)
            self.framework = cut if self.cluster else self.framework
        distances_A = np.linalg.norm(self.framework.positions[:, None] - self.images_A, axis=2).min(axis=1)
        # of a whole cell every atom is free; the rim of a cluster is no real surrounding and must not move
        frozen = distances_A > settings.free_radius_A if self.cluster else np.zeros(len(self.framework), dtype=bool)
        self.frozen = np.append(frozen, False)

    def image(self, number: int) -> Atoms:
        """The crystal with the ion in one place."""
        return self.framework + Atoms([self.ion], positions=[self.images_A[number]])

    def ask(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        self.evaluations += 1
        return self.potential.evaluate_sites(image, forces)

    def result(self) -> BandProbe:
        steps, last = self.settings.steps, IMAGES - 1
        found = [self.ask(self.image(number), forces=number in (0, last)) for number in range(IMAGES)]
        energies_eV = np.array([each.energy_eV for each in found])
        top = 1 + int(np.argmax(energies_eV[1:-1]))
        middle = IMAGES // 2
        symmetric = _alike(found, energies_eV)
        relaxed = [0, top] if symmetric else [0, last, top]
        if top != middle and energies_eV[middle] < min(energies_eV[0], energies_eV[last]):
            # a site on the way that lies below both ends: the band's lowest point
            relaxed.append(middle)
        traces = np.full((4, IMAGES, steps + 1), np.nan)
        for number in relaxed:
            start = found[number] if number in (0, last) else self.ask(self.image(number))
            traces[:, number] = self._relaxed(number, start, along=number == top)
        return BandProbe(
            energies_eV=energies_eV,
            site_energies_eV=np.array([each.site_energies_eV[-1] for each in found]),
            descriptors=np.array([each.descriptors[-1] for each in found], dtype=np.float32),
            relaxed_energies_eV=traces[0],
            expected_gains_eV=traces[1],
            largest_forces_eV_per_A=traces[2],
            displacements_A=traces[3],
            atoms=len(self.framework) + 1,
            cluster=self.cluster,
            symmetric=symmetric,
            evaluations=self.evaluations,
        )

    def _relaxed(self, number: int, start: SiteEvaluation, along: bool) -> np.ndarray:
        """Energy, expected gain, largest force and displacement after each step, shape (4, steps + 1)."""
        image = self.image(number)
        origin_A = image.positions.copy()
        tangent = None
        if along:
            # the highest image must not slide down the path; its framework is free
            chord_A = self.images_A[number + 1] - self.images_A[number - 1]
            length_A = float(np.linalg.norm(chord_A))
            # a path that turns back on itself has no direction where it turns
            tangent = chord_A / length_A if length_A > _LEAST_CHORD_A else None

        def free(vectors: np.ndarray) -> np.ndarray:
            vectors = vectors.copy()
            if self.cluster:
                vectors[self.frozen] = 0.0
            else:
                vectors -= vectors.mean(axis=0)
            if tangent is not None:
                vectors[-1] -= tangent * (vectors[-1] @ tangent)
            return vectors

        springs = spring_preconditioner(image, self.frozen)
        optimiser = LimitedMemoryBFGS(
            self.settings.max_step_A, _MEMORY, preconditioner=lambda forces: free(springs(forces))
        )
        trace = []
        evaluation = start
        for step in range(self.settings.steps + 1):
            forces = free(np.asarray(evaluation.forces_eV_per_A))
            optimiser.learn(image.positions, forces)
            gain_eV = optimiser.expected_gain_eV(forces)
            moved_A = float(np.linalg.norm(image.positions - origin_A))
            trace.append((evaluation.energy_eV, gain_eV, float(np.linalg.norm(forces, axis=1).max()), moved_A))
            if step < self.settings.steps:
                image.positions = optimiser.step(image.positions, forces)
                evaluation = self.ask(image)
        return np.array(trace).T


def _cluster(framework: Atoms, images_A: np.ndarray, radius_A: float) -> Atoms:
    """All atoms and periodic copies round the path, in a cell that is too wide for its own copies to meet."""
    cell, centre_A = framework.cell.array, images_A.mean(axis=0)
    inverse = np.linalg.inv(cell)
    reach_A = radius_A + float(np.linalg.norm(images_A - centre_A, axis=1).max())
    # a flat cell repeats several times within the radius; half a cell more, because atoms are wrapped to the centre
    copies = np.ceil(reach_A * np.linalg.norm(inverse, axis=0) + 0.5).astype(int)
    away = (framework.positions - centre_A) @ inverse
    away -= np.round(away)
    positions_A, numbers = [], []
    for shift in itertools.product(*(range(-count, count + 1) for count in copies)):
        moved_A = (away + np.array(shift)) @ cell + centre_A
        inside = np.linalg.norm(moved_A[:, None] - images_A, axis=2).min(axis=1) < radius_A
        positions_A.append(moved_A[inside])
        numbers.append(framework.numbers[inside])
    found_A = np.concatenate(positions_A)
    width_A = 2.0 * float(np.linalg.norm(found_A - centre_A, axis=1).max()) + 20.0
    return Atoms(np.concatenate(numbers), positions=found_A, cell=np.eye(3) * width_A, pbc=True)


def _written_once(framework: Atoms) -> Atoms:
    """Leave out an atom that stands there twice, a hair apart, as some published tables have it.

    Raises
    ------
    StructureError
        Two different elements stand in one place: no potential is to be believed there.
    """
    first, second = neighbor_list("ij", framework, _SAME_ATOM_A)
    if (framework.numbers[first] != framework.numbers[second]).any():
        raise StructureError(
            f"Two atoms of the framework are less than {_SAME_ATOM_A} Angstrom apart; give each site once.",
            Reason.CLOSE_CONTACT,
        )
    return framework[np.setdiff1d(np.arange(len(framework)), second[first < second])]


def _alike(found: Sequence[SiteEvaluation], energies_eV: np.ndarray) -> bool:
    """Whether the second half of a path repeats the first: same energies, and same forces at the ends."""
    if abs(energies_eV[0] - energies_eV[-1]) > _SAME_END_EV or abs(energies_eV[1] - energies_eV[-2]) > _SAME_QUARTER_EV:
        return False
    first, last = (np.sort(np.linalg.norm(np.asarray(found[end].forces_eV_per_A), axis=1)) for end in (0, -1))
    return bool(np.allclose(first, last, atol=_SAME_FORCE_EV_PER_A))


def unexpected_failure(error: Exception) -> str:
    """A sentence for a probe that failed for no reason that was foreseen."""
    return f"The probe of the path failed unexpectedly ({type(error).__name__}: {' '.join(str(error).split())})."


def probe_rows(
    rows: Sequence[dict[str, Any]],
    potential: SitePotential,
    settings: ProbeSettings,
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, str]]:
    """Probe many paths and keep what comes of it; those that are there already are not probed again.

    Returns
    -------
    Of each row that could not be probed its ``path_id``, ``reason`` and ``error``.
    """
    say = progress or (lambda _: None)
    failed = []
    for number, row in enumerate(rows, 1):
        try:
            probe_path(MigrationPath.from_row(row), potential, settings, folder)
        except CandidateError as error:
            failed.append({"path_id": str(row.get("path_id")), "reason": str(error.reason), "error": str(error)})
        except Exception as error:  # noqa: BLE001  what goes wrong with one path costs no other its probe
            text = unexpected_failure(error)
            failed.append({"path_id": str(row.get("path_id")), "reason": str(Reason.UNEXPECTED_ERROR), "error": text})
        say(f"{number} of {len(rows)} paths probed")
    return failed
