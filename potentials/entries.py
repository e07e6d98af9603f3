"""What the registry keeps of a potential: its weight files, their hashes, and where they can be fetched from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Family = Literal["mace", "m3gnet"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class WeightFile:
    """One file of a potential's weights.

    Attributes
    ----------
    name
        File name in the cache.
    sha256
        SHA-256 of the content, 64 hexadecimal digits.
    size_bytes
        Length of the content.
    """

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class UpstreamRelease:
    """The authors' own release.

    Attributes
    ----------
    label
        What to call it in messages.
    urls
        One address for each weight file, in the order of :attr:`PotentialEntry.files`.
    """

    label: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class IndexPackage:
    """A source distribution of the Python package index that carries the weight files.

    Attributes
    ----------
    requirement
        Exact requirement, for instance ``janus-core==0.8.1``.
    sha256
        SHA-256 of the source distribution; pip checks it before it opens the archive.
    size_bytes
        Length of the source distribution.
    members
        For every potential that the archive carries: the paths of its files inside the archive without the leading
        ``name-version`` folder, in the order of :attr:`PotentialEntry.files`.
    """

    requirement: str
    sha256: str
    size_bytes: int
    members: dict[str, tuple[str, ...]]

    @property
    def project(self) -> str:
        """Name of the project on the index."""
        return self.requirement.partition("==")[0]


@dataclass(frozen=True)
class PotentialEntry:
    """One potential of the registry.

    Attributes
    ----------
    name
        Registry name.
    family
        Code that evaluates the model, ``mace`` or ``m3gnet``.
    description
        One line for people.
    method
        One line on what the energies are (model, training set, level of theory); precision is added on loading.
    licence
        SPDX identifier of the weights' licence.
    citation
        Paper to cite.
    files
        The weight files. One file is cached as ``<name of the file>``, several as a folder of the potential's name.
    other_names
        Names under which upstream or a package ships the file (or the folder); taken as well when a person has put
        the weights into a folder by hand.
    upstream
        Releases of the authors, best first.
    packages
        Packages of the index that carry the files, best first.
    default_dtype
        Floating-point precision when none is asked for.
    reference_energy_eV_per_atom
        Energy of rock-salt LiF, a = 4.08 Angstrom, in eV/atom: what right weights in the right code give.
    """

    name: str
    family: Family
    description: str
    method: str
    licence: str
    citation: str
    files: tuple[WeightFile, ...]
    other_names: tuple[str, ...]
    upstream: tuple[UpstreamRelease, ...]
    packages: tuple[IndexPackage, ...]
    default_dtype: Precision
    reference_energy_eV_per_atom: float

    @property
    def sha256(self) -> str:
        """SHA-256 that stands for all weight files.

        The file's own hash if there is one file; otherwise the hash of the lines
        ``<file name> <sha256>``, each with its line feed, sorted by file name.
        """
        if len(self.files) == 1:
            return self.files[0].sha256
        lines = sorted(f"{file.name} {file.sha256}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Length of all weight files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def local_name(self) -> str:
        """Name of the file, or of the folder if there are several files, inside the cache."""
        return self.files[0].name if len(self.files) == 1 else self.name

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the weights can be fetched from, in the order in which the places are tried."""
        releases = tuple(release.label for release in self.upstream)
        return releases + tuple(f"Python package {package.requirement}" for package in self.packages)
