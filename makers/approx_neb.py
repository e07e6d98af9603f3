"""ApproxNEB for insertion hosts: one ion in the host without the others, held in places along its path.

Z. Rong, D. Kitchaev, P. Canepa, W. Huang and G. Ceder, J. Chem. Phys. 145, 074112 (2016): end points relax freely; in
each image between them the ion and the atom farthest from it are held and everything else relaxes, image by image.
There the places come from the host's charge density. Here they come from the machine-learned band; with
:func:`charge_density_flow` they come from the charge density as in the paper, which only jobs that follow one another
can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..transport.errors import CandidateError, HopflowError, Reason
from .dft_flows import of_category_dft
from .vasp_inputs import HandoffSettings, generators, hop_of, ordered_band

if TYPE_CHECKING:
    from ase import Atoms
    from jobflow import Flow
    from pymatgen.core import Structure

HELD = "selective_dynamics"
"""Site property of pymatgen: which coordinates of an atom may move."""


def insertion_band(band: Sequence[Structure], ion: str) -> tuple[list[Structure], list[int]]:
    """Take all mobile ions but the migrating one out of a band, and hold two atoms of each image between its ends.

    Parameters
    ----------
    band
        In the order of VASP's files, see :func:`.vasp_inputs.ordered_band`.
    ion
        Element symbol of the mobile ion.

    Returns
    -------
    tuple
        The images, whose inner ones have the site property ``selective_dynamics``; and for every atom of theirs its
        index in the images given.

    Raises
    ------
    CandidateError
        What is left is no host for an ion (reason ``NO_INSERTION_HOST``).
    """
    moving, _ = hop_of(band)
    kept = [index for index, site in enumerate(band[0]) if index == moving or site.specie.symbol != ion]
    _check_host(band[0], ion)
    images = []
    for number, whole in enumerate(band):
        image = whole.copy()
        image.remove_sites([index for index in range(len(whole)) if index not in kept])
        if number not in (0, len(band) - 1):
            ion_index = kept.index(moving)
            distances = [image.get_distance(ion_index, other) for other in range(len(image))]
            held = {ion_index, distances.index(max(distances))}
            image.add_site_property(HELD, [[index not in held] * 3 for index in range(len(image))])
        images.append(image)
    return images, kept


def _check_host(image: Structure, ion: str) -> None:
    """An electron comes with the ion; something of the host must take it."""
    rest = image.copy()
    rest.remove_species([ion])
    elements = {site.specie for site in rest}
    if not any(element.is_transition_metal or element.is_metal or element.symbol == "C" for element in elements):
        formula = rest.composition.reduced_formula if len(rest) else "nothing"
        raise CandidateError(
            f"Without {ion} there is {formula}, which is no host to insert it into; ApproxNEB is for electrodes, use "
            "`method: neb`.",
            Reason.NO_INSERTION_HOST,
        )


def approx_neb_flow(
    images: Sequence[Atoms | Structure],
    settings: HandoffSettings | None = None,
    name: str = "ApproxNEB",
    metadata: Mapping[str, Any] | None = None,
) -> Flow:
    """The images of a hand-off as a jobflow flow: each relaxes by itself, then the energies are collected.

    All jobs have the FireWorks category ``dft``. Building needs no POTCARs, running needs them and VASP.

    Parameters
    ----------
    images
        The machine-learned band, end points included, or the images of a hand-off.
    settings
        As for :func:`.vasp_handoff.write_handoff`.
    name
        Name of the flow; the names of its jobs begin with it.
    metadata
        Metadata put on every job.

    Raises
    ------
    CandidateError, BandError, NonFiniteEnergyError
        The images are no band of one hop, an element has no potential, or there is no host.
    HopflowError
        A package that atomate2 needs for it is missing.
    """
    _need_pathfinder()
    from atomate2.common.jobs.approx_neb import collate_results
    from atomate2.vasp.jobs.core import RelaxMaker
    from jobflow import Flow

    settings = settings or HandoffSettings(method="approx_neb")
    band = _inserted(images, settings.ion)
    _, generator = generators(band, settings)
    jobs, found = [], []
    for number, image in enumerate(band):
        maker: Any = RelaxMaker(name=f"{name} image {number:02d}", input_set_generator=generator)
        jobs.append(maker.make(image))
        output = jobs[-1].output
        found.append(
            {
                "energy": output.output.energy,
                "structure": output.structure,
                "initial_structure": output.input.structure,
            }
        )
    host = band[0].copy()
    host.remove_sites([hop_of(band)[0]])
    collect = collate_results(host, settings.ion, {"0": found[0], "1": found[-1]}, {"0+1": found[1:-1]})
    collect.name = f"{name} barrier"
    return of_category_dft(Flow([*jobs, collect], output=collect.output, name=name), metadata)


def charge_density_flow(
    images: Sequence[Atoms | Structure],
    settings: HandoffSettings | None = None,
    name: str = "ApproxNEB",
    metadata: Mapping[str, Any] | None = None,
) -> Flow:
    """ApproxNEB as atomate2 has it: the empty host relaxes, and its charge density tells the ion's path.

    Of the band only the ends are used, and the host's atoms. The cell is kept, as everywhere here.

    Parameters
    ----------
    images, settings, name, metadata
        As for :func:`approx_neb_flow`.

    Raises
    ------
    CandidateError, BandError, NonFiniteEnergyError
        As for :func:`approx_neb_flow`.
    """
    _need_pathfinder()
    from atomate2.vasp.flows.approx_neb import ApproxNebMaker
    from atomate2.vasp.jobs.core import RelaxMaker

    settings = settings or HandoffSettings(method="approx_neb")
    band = _inserted(images, settings.ion)
    _, image_set = generators(band, settings)
    host = band[0].copy()
    moving, _ = hop_of(band)
    host.remove_sites([moving])
    # the path is found in the charge density, which image calculations do not write
    with_density = replace(settings, user_incar={**settings.user_incar, "LCHARG": True})
    _, host_set = generators(band, with_density)
    host_maker: Any = RelaxMaker(name=f"{name} host", input_set_generator=host_set)
    image_maker: Any = RelaxMaker(name=f"{name} image", input_set_generator=image_set)
    maker = ApproxNebMaker(
        name=name, host_relax_maker=host_maker, image_relax_maker=image_maker, min_hop_distance=False
    )
    ends = {str(number): band[end].frac_coords[moving].tolist() for number, end in enumerate((0, -1))}
    flow = maker.make(host, settings.ion, ends, ["0+1"], n_images=len(band) - 2, min_images_per_hop=len(band) - 2)
    flow.name = name
    return of_category_dft(flow, metadata)


def _inserted(images: Sequence[Atoms | Structure], ion: str) -> list[Structure]:
    """The images of ApproxNEB from those of a band as it is given."""
    ordered, _ = ordered_band(images, ion)
    return insertion_band(ordered, ion)[0]


def _need_pathfinder() -> None:
    if find_spec("pymatgen.analysis.diffusion") is None:
        raise HopflowError(
            "atomate2's ApproxNEB needs the package pymatgen-analysis-diffusion; install hopflow with its extra `dft`."
        )
