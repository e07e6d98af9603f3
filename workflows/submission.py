"""Hand-offs as FireWorks: the jobs of a VASP band, put on the launchpad for a cluster's workers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..transport.errors import HopflowError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from .database import Database


@dataclass(frozen=True)
class Submitted:
    """What was put on the launchpad.

    Attributes
    ----------
    formula
        Of the band's cell.
    fireworks
        Ids of the jobs, in the order in which they were made.
    """

    formula: str
    fireworks: list[int]


def submit(database: Database, folder: Path) -> Submitted:
    """Put the jobs of a band on the launchpad: both end points, the band on them, the barrier.

    The jobs have the category ``dft`` and are those of :func:`..makers.vasp_handoff.neb_flow` or, for ApproxNEB, of
    :func:`..makers.approx_neb.approx_neb_flow`; a worker needs VASP, its
    potentials and atomate2's settings.

    Parameters
    ----------
    database
        The open database.
    folder
        A folder that the dft stage wrote for VASP; of one that holds several hops, see
        :func:`..makers.folders.hop_folders`.

    Raises
    ------
    HopflowError
        The folder is no hand-off for VASP, an image is missing, or its jobs are on the launchpad already.
    """
    from jobflow.managers.fireworks import flow_to_workflow

    from ..makers.approx_neb import approx_neb_flow
    from ..makers.folders import MANIFEST, read_manifest
    from ..makers.vasp_handoff import HandoffSettings, neb_flow

    manifest = read_manifest(folder)
    if manifest.get("engine") != "vasp":
        raise HopflowError(
            f"{folder} is no hand-off for VASP; name a folder that `engine: vasp` of the dft stage wrote."
        )
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    known = database.launchpad.workflows.find_one({"metadata.handoff_sha256": digest}, {"nodes": 1})
    if known is not None:
        raise HopflowError(
            f"The jobs of {folder} are on the launchpad already (FireWorks {min(known['nodes'])} to "
            f"{max(known['nodes'])}); rerun them with lpad, or write the hand-off anew."
        )
    images = read_images(folder, int(manifest["result"]["images"]) + 2)
    names = {each.name for each in fields(HandoffSettings)}
    settings = HandoffSettings(**{key: value for key, value in manifest["settings"].items() if key in names})
    about: dict[str, Any] = {**manifest["metadata"], "handoff": str(folder.resolve()), "handoff_sha256": digest}
    formula = images[0].composition.reduced_formula
    if settings.method == "approx_neb":
        flow = approx_neb_flow(images, settings, f"{formula} ApproxNEB", about)
    else:
        flow = neb_flow(images, settings, f"{formula} DFT-NEB", about)
    ids = database.launchpad.add_wf(flow_to_workflow(flow, metadata=about))
    return Submitted(formula, sorted(ids.values()))


def read_images(folder: Path, number: int) -> list[Structure]:
    """Images of a hand-off, with the moments that its INCAR starts them from.

    Parameters
    ----------
    folder
        The hand-off.
    number
        Images, end points included.

    Raises
    ------
    HopflowError
        An image is missing or cannot be read.
    """
    from pymatgen.io.vasp import Incar, Poscar

    try:
        images = [Poscar.from_file(folder / f"{n:02d}" / "POSCAR").structure for n in range(number)]
        # ApproxNEB has no band, and one INCAR an image
        file = folder / "INCAR" if (folder / "INCAR").is_file() else folder / "00" / "INCAR"
        moments = Incar.from_file(file).get("MAGMOM")
    except (OSError, ValueError, IndexError) as error:
        raise HopflowError(f"{folder} is not whole ({error}); write the hand-off anew.") from error
    if moments is not None:
        for image in images:
            image.add_site_property("magmom", [float(moment) for moment in moments])
    return images
