"""The common frame of every stage: check the candidate, time the work, sign the document."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobflow import Maker, job
from monty.json import MontyEncoder

from .documents import StageDocument
from .settings import StageSettings

if TYPE_CHECKING:
    from pymatgen.core import Structure

METHOD_VERSION = 5
"""Raised whenever a stage's numbers change, so that stored results of the older method are not reused."""


@cache
def package_versions(*names: str) -> dict[str, str]:
    """Versions of installed packages; a package that is absent is left out."""
    found = {}
    for name in ("hopflow", *names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class StageMaker(Maker):
    """A stage of the funnel: pure configuration, and one method that answers for one structure.

    Parameters
    ----------
    name
        Name of the jobs that it makes.
    ion
        Element symbol of the mobile ion.
    settings
        The stage's settings.
    """

    name: str = "stage"
    ion: str = "Li"
    settings: StageSettings = field(default_factory=StageSettings)

    stage: ClassVar[str] = "stage"
    document: ClassVar[type[StageDocument]] = StageDocument
    packages: ClassVar[tuple[str, ...]] = ()
    category: ClassVar[str] = "cpu"
    fan_out: ClassVar[bool] = False
    reusable: ClassVar[bool] = True
    partial_occupancies: ClassVar[bool] = False
    without_effect: ClassVar[frozenset[str]] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """Serialize; the settings become a plain dictionary, which FireWorks would otherwise store as text."""
        serialized = super().as_dict()
        serialized["settings"] = json.loads(json.dumps(self.settings, cls=MontyEncoder))
        return serialized

    @job(output_schema=StageDocument)
    def make(self, structure: Structure) -> StageDocument:
        """Make a job that answers for one structure.

        Parameters
        ----------
        structure
            The crystal.

        Returns
        -------
        Job
            Its output is the stage's document.
        """
        return self.evaluate(structure)

    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights of the model that may speak; nothing where no model does.

        Only an ASE calculator is loaded for it: the registry knows the others.
        """
        potential = getattr(self.settings, "potential", None)
        if potential is None:
            return None
        from ..potentials.registry import potential_sha256

        return potential_sha256(potential)

    def content_key(self, structure: Structure, prior: Mapping[str, StageDocument] | None = None) -> str:
        """Name of the result: equal keys mean equal results.

        Parameters
        ----------
        structure
            The crystal.
        prior
            Documents of earlier stages, for a stage that works on them.

        Returns
        -------
        str
            SHA-256 of structure, ion, stage, settings, method version and model weights.
        """
        from ..transport.structures import structure_hash

        prior = prior or {}
        facts = {
            "structure": structure_hash(structure),
            "ion": self.ion,
            "stage": self.stage,
            "settings": self.settings.model_dump(mode="json", exclude=set(self.without_effect)),
            "method_version": METHOD_VERSION,
            "weights": self.weights_sha256(),
            "prior": {stage: prior[stage].content_key for stage in sorted(self.needs()) if stage in prior},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def needs_the_ion(self) -> bool:
        """Whether a crystal without the mobile ion cannot be answered."""
        return True

    def needs(self) -> tuple[str, ...]:
        """Stages whose documents the result depends on."""
        return ()

    def evaluate(
        self,
        structure: Structure,
        prior: Mapping[str, StageDocument] | None = None,
        checkpoint_folder: Path | None = None,
    ) -> StageDocument:
        """Answer for one structure.

        Parameters
        ----------
        structure
            The crystal.
        prior
            Documents of earlier stages by stage name.
        checkpoint_folder
            Where unfinished work of this content key is saved and found again; nothing is saved when absent.

        Returns
        -------
        StageDocument
            The stage's document.

        Raises
        ------
        CandidateError
            The candidate cannot be answered.
        """
        from ..transport.structures import check_structure, structure_hash

        started = time.perf_counter()
        asked: dict[str, Any] = {
            "partial_occupancies": self.partial_occupancies,
            "ion_required": self.needs_the_ion(),
        }
        check_structure(structure, self.ion, **asked)
        cell = primitive_cell(structure)
        check_structure(cell, self.ion, self.settings.max_atoms, **asked)
        key = self.content_key(structure, prior)
        checkpoint = None
        if checkpoint_folder is not None:
            checkpoint = Path(checkpoint_folder) / self.stage / key
        found = self.compute(cell, prior or {}, checkpoint)
        found["warnings"] = [*structure.properties.get("reading_warnings", []), *found.get("warnings", [])]
        signed = {"versions": package_versions(*self.packages), "weights_sha256": self.weights_sha256(), **found}
        return self.document(
            stage=self.stage,
            formula=structure.composition.reduced_formula,
            ion=self.ion,
            atoms=len(structure),
            structure_hash=structure_hash(structure),
            content_key=key,
            settings=self.settings.model_dump(mode="json"),
            seconds=time.perf_counter() - started,
            **signed,
        )

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return the fields of the document that only this stage knows.

        ``versions`` and ``weights_sha256`` among them win over the stage's own, where not every answer needs the same
        packages or weights.

        Parameters
        ----------
        structure
            The primitive cell of a structure that passed the common checks.
        prior
            Documents of earlier stages.
        checkpoint
            A path of its own for this content key (not made yet), or nothing.
        """
        raise NotImplementedError


def primitive_cell(structure: Structure, symprec: float = 1e-3) -> Structure:
    """Return the primitive cell, or the structure itself where that has no more atoms or spglib finds no cell.

    Every stage's answer is that of the infinite crystal; a smaller cell gives it for less.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        primitive = SpacegroupAnalyzer(structure, symprec=symprec).find_primitive(keep_site_properties=True)
    except (SymmetryUndeterminedError, ValueError):
        return structure
    return primitive if primitive is not None and len(primitive) < len(structure) else structure


def finite_or_none(barrier: float) -> float | None:
    """Turn the physics floor's infinity (no path) into the document's ``None``."""
    return float(barrier) if barrier < float("inf") else None
