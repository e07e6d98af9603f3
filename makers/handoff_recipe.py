"""The README.txt of a hand-off: what was chosen, and how to run it step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .vasp_handoff import HandoffResult
    from .vasp_inputs import HandoffSettings


def recipe(result: HandoffResult, settings: HandoffSettings, metadata: Mapping[str, Any]) -> str:
    """The text of ``README.txt``.

    Parameters
    ----------
    result
        What was written.
    settings
        What it was written with.
    metadata
        What is known of the band.
    """
    last = f"{result.images + 1:02d}"
    approx = settings.method == "approx_neb"
    electrons = "ion: inserted with its electron" if approx else f"vacancy: {settings.vacancy_charge}"
    lines = [
        f"VASP {'ApproxNEB' if approx else 'nudged elastic band'} of a {settings.ion} hop, {result.formula} "
        f"({result.atoms} atoms, {result.images} moving images).",
        "The images are the band of a machine-learned potential.",
        "",
        *(f"{key}: {value}" for key, value in metadata.items()),
        f"functional: {settings.functional}; cutoff {settings.encut_eV:g} eV; Hubbard U (eV): "
        f"{result.hubbard_u_eV or 'none'}",
        f"{electrons}; charge of the cell {result.charge_e:+d} e; valence electrons "
        f"{result.electrons if result.electrons is not None else 'not listed for this potential set'}",
        f"hop: atom {result.moving_atom + 1} of every POSCAR (counted from 1), {result.hop_length_A:.3f} Å",
        "",
        *result.notes,
        "",
        result.potcar_reason,
        "",
        "How to run it",
        "-------------",
    ]
    steps = []
    if result.potcar == "spec":
        where = f"every folder 00 to {last}" if approx else "this folder and in both endpoint folders"
        steps.append(
            f"In {where}, make the POTCAR from POTCAR.spec:\n"
            f"     pmg potcar --symbols {' '.join(result.potcar_symbols)} --functional {settings.potcar_functional}\n"
            "   (pymatgen, with PMG_VASP_PSP_DIR set), or join the files of these potentials in this order."
        )
    steps += _steps_of_images(last) if approx else _steps_of_band(result, last)
    lines += [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join(lines) + "\n"


def _steps_of_band(result: HandoffResult, last: str) -> list[str]:
    """How a band is run."""
    return [
        "Run VASP in endpoint_initial/ and in endpoint_final/. Both relax at fixed cell. Check that each reached its\n"
        "   force limit and that the ion stayed in its site.",
        f"Copy the relaxed end points into the band:\n"
        "     cp endpoint_initial/CONTCAR 00/POSCAR; cp endpoint_initial/OUTCAR 00/OUTCAR\n"
        f"     cp endpoint_final/CONTCAR {last}/POSCAR; cp endpoint_final/OUTCAR {last}/OUTCAR",
        f"Run VASP in this folder on a number of ranks that {result.images} divides (one group of ranks an image).",
        "Read the barrier as the highest image's energy minus the end point's, from the last ionic step of each\n"
        "   OUTCAR (energy without entropy, sigma to 0). Count it only if every image reached the force limit.",
    ]


def _steps_of_images(last: str) -> list[str]:
    """How ApproxNEB is run."""
    return [
        f"Run VASP in every folder 00 to {last}, in any order or side by side. 00 and {last} relax freely at fixed\n"
        "   cell; check that the ion stayed in its site. In the others the ion and the atom farthest from it are held\n"
        "   (selective dynamics in POSCAR).",
        "Read the barrier as the highest image's energy minus the end point's, from the last ionic step of each\n"
        "   OUTCAR (energy without entropy, sigma to 0). Count it only if every image reached its force limit.",
    ]
