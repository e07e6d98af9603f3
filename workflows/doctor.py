"""What works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ..transport.errors import HopflowError

if TYPE_CHECKING:
    from .console import Options


@dataclass
class Finding:
    """One thing that was looked at: ``ok``, ``note`` (works with a limit) or ``broken``."""

    subject: str
    verdict: str
    text: str


def examine(options: Options) -> list[Finding]:
    """Look at everything that a campaign needs."""
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": _packages,
        "processors": _processors,
        "database": lambda: _database(options),
        "weights": _weights,
        "services": _outside,
    }
    findings: list[Finding] = []
    for subject, look in sections.items():
        try:
            findings.extend(look())
        except HopflowError as error:
            findings.append(Finding(subject, "broken", str(error)))
        except (ImportError, OSError) as error:
            # A package that is half installed breaks on import in ways of its own; the rest is still worth a look.
            findings.append(Finding(subject, "broken", f"{type(error).__name__}: {error}; install hopflow anew."))
    return findings


def _packages() -> Iterator[Finding]:
    yield Finding("Python", "ok", sys.version.split()[0])
    needed = ("pymatgen", "ase", "jobflow", "fireworks", "atomate2", "torch", "mace-torch", "matgl", "e3nn")
    found, absent = [], []
    for name in needed:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    yield Finding("packages", "ok", ", ".join(found))
    if absent:
        yield Finding("packages", "broken", f"missing: {', '.join(absent)}; install hopflow with its dependencies.")


def _processors() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("processors", "ok", f"{cores} cores; `hopflow run --workers {cores}` uses one process a core.")
    import torch

    if torch.cuda.is_available():
        yield Finding("GPU", "ok", torch.cuda.get_device_name(0))
    else:
        yield Finding("GPU", "note", "none; the potentials run on the processor.")


def _database(options: Options) -> Iterator[Finding]:
    from .console import opened

    with opened(options, read_only=True) as database:
        database.ping()
        campaigns = database.campaigns.count_documents({})
        yield Finding("database", "ok", f"{database.description}, {campaigns} campaigns.")
        if database.kind == "embedded":
            yield Finding(
                "database",
                "note",
                "the embedded database takes one launcher at a time and a few thousand candidates; "
                "give --launchpad FILE to use MongoDB.",
            )


def _weights() -> Iterator[Finding]:
    from ..potentials.registry import DEFAULT_NEB_POTENTIAL, DEFAULT_SCAN_POTENTIAL, get_entry
    from ..potentials.weights import find_weights

    for name in (DEFAULT_NEB_POTENTIAL, DEFAULT_SCAN_POTENTIAL):
        place = find_weights(get_entry(name))
        if place is None:
            yield Finding("weights", "note", f"{name} is not here yet; `hopflow models fetch {name}` gets it.")
        else:
            yield Finding("weights", "ok", f"{name}: {place}")
    from ..learning.barrier_models import BARRIER_MODELS
    from ..learning.prediction import checkpoint_info

    for file in dict.fromkeys(model.checkpoint for model in BARRIER_MODELS.values()):
        yield Finding("barrier models", "ok", f"{file.stem}: checkpoint {checkpoint_info(file)['sha256'][:12]}")


def _outside() -> Iterator[Finding]:
    if os.environ.get("MP_API_KEY"):
        yield Finding("Materials Project", "ok", "MP_API_KEY is set.")
    else:
        yield Finding(
            "Materials Project", "note", "MP_API_KEY is not set; campaigns need `structures` or `snapshot` until it is."
        )
    from pymatgen.core import SETTINGS

    if SETTINGS.get("PMG_VASP_PSP_DIR"):
        yield Finding("POTCAR", "ok", f"PMG_VASP_PSP_DIR is {SETTINGS['PMG_VASP_PSP_DIR']}")
    else:
        yield Finding("POTCAR", "note", "PMG_VASP_PSP_DIR is not set; hand-offs carry POTCAR.spec instead of POTCARs.")
    yield from _espresso()


def _espresso() -> Iterator[Finding]:
    from ..potentials.espresso import pw_command
    from ..potentials.pseudopotentials import PSEUDOPOTENTIAL_SETS, set_folder
    from ..transport.errors import CandidateError

    try:
        yield Finding("Quantum ESPRESSO", "ok", " ".join(pw_command()))
    except CandidateError as error:
        yield Finding("Quantum ESPRESSO", "note", f"{error} Only `engine: espresso` of the dft stage needs it.")
        return
    here = [name for name in PSEUDOPOTENTIAL_SETS if set_folder(name).is_dir()]
    if here:
        yield Finding("pseudopotentials", "ok", ", ".join(here))
    else:
        text = "no set is here yet; `hopflow dft pseudopotentials pseudodojo-pbe` gets one."
        yield Finding("pseudopotentials", "note", text)
