"""The funnel of a campaign: its levels, and the jobs that carry a group of candidates into a level.

A level holds the stages that run side by side; a candidate enters the next level when every stage of its level let it
pass. Job uuids are derived from what a job does, so that the same work is never two jobs.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, JobConfig, OnMissing
from monty.json import MontyEncoder, MSONable

from ..makers.stage import StageMaker
from .gate import Gate

if TYPE_CHECKING:
    from pymatgen.core import Structure

LEVELS: tuple[tuple[str, ...], ...] = (("bvse",), ("gnn",), ("pes", "neb"), ("dft",))
"""Every stage in the order of cost; stages of one level run side by side."""

_NAMESPACE = uuid.UUID("5f3a2f0e-6a0b-5d8c-9c56-3f7f2f6f6b1c")


@dataclass
class FunnelStage(MSONable):
    """One stage of a campaign.

    Attributes
    ----------
    maker
        The stage's configuration.
    gate
        What lets a candidate pass.
    """

    maker: StageMaker
    gate: Gate

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.maker.stage


@dataclass
class Candidate(MSONable):
    """A material on its way through the funnel.

    Attributes
    ----------
    material_id
        Canonical id within the campaign.
    structure
        The crystal.
    content_keys
        Content key of the result of every stage that it passed.
    attempt
        How many times a person asked to run a failed stage again.
    """

    material_id: str
    structure: Structure
    content_keys: dict[str, str] = field(default_factory=dict)
    attempt: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Serialize; the structure as JSON text.

        jobflow and FireWorks walk through every value of a job a dozen times; a text is one value.
        """
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "material_id": self.material_id,
            "structure": json.dumps(self.structure.as_dict(verbosity=0), cls=MontyEncoder),
            "content_keys": dict(self.content_keys),
            "attempt": self.attempt,
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Candidate:
        """Read what :meth:`as_dict` wrote."""
        from pymatgen.core import Structure

        structure = Structure.from_dict(json.loads(d["structure"]))
        return cls(d["material_id"], structure, dict(d["content_keys"]), d["attempt"])


@dataclass
class Funnel(MSONable):
    """The stages of one campaign.

    Attributes
    ----------
    campaign
        Name of the campaign.
    levels
        Stages by level, the cheapest first.
    checkpoint_folder
        Absolute path where unfinished work is saved; nothing is saved when empty.
    priority
        FireWorks priority of the campaign's jobs; dearer levels add to it, so that the best candidates finish first.
    diary_folder
        Absolute path of the folder where this campaign's jobs, and no others, note how far they are; no diary is kept
        when empty.
    """

    campaign: str
    levels: list[list[FunnelStage]]
    checkpoint_folder: str = ""
    priority: int = 0
    diary_folder: str = ""

    def stage(self, name: str) -> FunnelStage:
        """Find a stage by its name."""
        for level in self.levels:
            for stage in level:
                if stage.name == name:
                    return stage
        raise KeyError(f"The campaign has no stage {name!r}.")

    def level_of(self, name: str) -> int:
        """Number of the level that holds a stage."""
        return next(i for i, level in enumerate(self.levels) if any(stage.name == name for stage in level))

    def has_budget(self, level: int) -> bool:
        """Whether a stage of the level has a ``top`` budget, which waits for every candidate."""
        return any(stage.gate.top is not None for stage in self.levels[level])


def job_uuid(funnel: Funnel, stage: str, candidates: Sequence[Candidate]) -> str:
    """Deterministic uuid of the job that runs a stage on some candidates.

    A later attempt gets another uuid; everything else that is equal gives the same.
    """
    members = sorted((c.material_id, c.attempt) for c in candidates)
    settings = {}
    if stage in {s.name for level in funnel.levels for s in level}:
        found = funnel.stage(stage)
        settings = {"maker": found.maker.as_dict(), "gate": found.gate.as_dict()}
    facts = json.dumps([funnel.campaign, stage, members, settings], sort_keys=True)
    return str(uuid.uuid5(_NAMESPACE, hashlib.sha256(facts.encode()).hexdigest()))


def _configure(job: Job, funnel: Funnel, stage: str, candidates: Sequence[Candidate], level: int, category: str) -> Job:
    """Give a job its identity, its labels and its route.

    The manager configuration of a parent must not overwrite its children's category, hence
    ``pass_manager_config=False``.
    """
    job.set_uuid(job_uuid(funnel, stage, candidates))
    names = [c.material_id for c in candidates]
    job.name = f"{stage} {names[0]}" if len(names) == 1 else f"{stage} {names[0]} and {len(names) - 1} more"
    job.metadata = {"campaign": funnel.campaign, "stage": stage, "material_ids": names, "job_uuid": job.uuid}
    job.config = JobConfig(
        manager_config={"_category": category, "_priority": funnel.priority + 10 * level},
        pass_manager_config=False,
        expose_store=True,
    )
    return job


def level_flow(funnel: Funnel, level: int, candidates: Sequence[Candidate]) -> Flow:
    """Build the jobs that take candidates through one level, and on from there.

    Parameters
    ----------
    funnel
        The campaign's funnel.
    level
        Number of the level.
    candidates
        The candidates that enter it together.

    Returns
    -------
    Flow
        One job a stage for cheap stages, one a candidate for dear ones. Where stages run side by side and none has a
        budget, one more job a candidate waits for all of them and leads on.
    """
    from .screening import enter_next_level, screen

    stages = funnel.levels[level]
    jobs: list[Flow | Job] = []
    by_material: dict[str, list[Job]] = {c.material_id: [] for c in candidates}
    for stage in stages:
        groups = [[c] for c in candidates] if stage.maker.fan_out else [list(candidates)]
        for group in groups:
            job = _configure(screen(funnel, stage.name, group), funnel, stage.name, group, level, stage.maker.category)
            jobs.append(job)
            for member in group:
                by_material[member.material_id].append(job)
    last = level == len(funnel.levels) - 1
    if len(stages) > 1 and not last and not funnel.has_budget(level):
        name = "after " + " and ".join(stage.name for stage in stages)
        for candidate in candidates:
            outputs = [job.output for job in by_material[candidate.material_id]]
            join = _configure(
                enter_next_level(funnel, level, candidate, outputs), funnel, name, [candidate], level, "cpu"
            )
            # A stage that was lost must not keep its neighbour's result from being looked at.
            join.config.on_missing_references = OnMissing.NONE
            jobs.append(join)
    return Flow(jobs, name=f"{funnel.campaign} {' + '.join(stage.name for stage in stages)}")
