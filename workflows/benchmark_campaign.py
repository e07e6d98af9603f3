"""The benchmark of bands as a campaign: a candidate for each path, a stage for each potential, side by side.

Everything that campaigns have serves it: launch, run, workers of other machines, resume, status, query and why.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flows.gate import Status
from ..makers.documents import PathBandDocument
from ..makers.path_band import path_structure, potential_stage
from ..transport.errors import CandidateError, HopflowError
from .benchmark_spec import KIND, BandBenchmarkSpec, benchmark_funnel
from .campaign import LaunchSummary, campaign_document, fate_entry, launch_candidates
from .candidates import Candidate, Fate, Intake
from .ledger import Ledger
from .path_bands import BandAnswer, band_file_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .band_benchmark import Selection
    from .database import Database

NOT_RUN = "not_run"
"""In the place of a reason: the campaign has not come to the path yet."""


def benchmark_intake(selection: Selection, source: str) -> Intake:
    """The paths as candidates; one that is no path fails by itself.

    Parameters
    ----------
    selection
        The paths.
    source
        Where they come from.
    """
    candidates = []
    names = material_ids(path.path_id for path in selection.paths)
    for path, name in zip(selection.paths, names, strict=True):
        facts: dict[str, Any] = {"material_id": name, "requested_ids": [str(path.path_id)], "source": source}
        facts["properties"] = {"barrier_reference_eV": path.barrier_eV, "barrier_published_eV": path.published_eV}
        try:
            structure = path_structure(path.row)
        except CandidateError as error:
            candidates.append(Candidate(**facts, fate=Fate.UNREADABLE, error=error))
            continue
        # two paths may begin at the same place; the row tells them apart
        text = json.dumps(structure.properties, sort_keys=True)
        key = f"path-{hashlib.sha256(text.encode()).hexdigest()}"
        formula = structure.composition.reduced_formula
        candidates.append(Candidate(**facts, fate=Fate.FOUND, structure=structure, structure_hash=key, formula=formula))
    return Intake(candidates=candidates, source=source)


def material_ids(path_ids: Iterable[str]) -> list[str]:
    """Names of the candidates: those of the paths, made unlike where a table repeats one."""
    return [file.removesuffix(".extxyz") for file in band_file_names(path_ids)]


def launch_benchmark(database: Database, spec: BandBenchmarkSpec, selection: Selection, home: Path) -> LaunchSummary:
    """Store the campaign and add a job for each path and potential; what is there already stays.

    Parameters
    ----------
    database
        The open database.
    spec
        The campaign.
    selection
        Its paths.
    home
        Folder that receives checkpoints.

    Raises
    ------
    HopflowError
        Another campaign has the name, or two potentials the same stage.
    """
    stages = [potential_stage(settings.potential) for settings in spec.potentials]
    if len(set(stages)) < len(stages):
        raise HopflowError(f"Two of the potentials would have one name in the campaign: {', '.join(stages)}.")
    intake = benchmark_intake(selection, "paths with reference barriers")
    entries = {candidate.material_id: _entry(candidate) for candidate in intake.candidates}
    funnel = benchmark_funnel(spec, home)
    document = campaign_document(spec.name, spec.model_dump(mode="json"), spec.digest(), funnel, intake, home)
    document |= {"kind": KIND, "ion": "", "chunk_size": 1}
    entered = sum(entry["status"] == Status.PASSED for entry in entries.values())
    summary = LaunchSummary(
        campaign=spec.name,
        candidates=len(intake.candidates),
        entered=entered,
        rejected=0,
        failed=len(intake.candidates) - entered,
        skipped=0,
        workflows=entered,
        fates={str(fate): count for fate, count in intake.fates().items()},
    )
    return launch_candidates(database, document, intake, entries, summary)


def _entry(candidate: Candidate) -> dict[str, Any]:
    return fate_entry(candidate) or {"status": str(Status.PASSED), "reason": "no_gate", "message": "The path was read."}


def campaign_answers(database: Database, campaign: str, potential: str, bands: Path) -> list[BandAnswer]:
    """What a campaign has found with one of its potentials, in the order of its paths.

    Parameters
    ----------
    database
        The open database.
    campaign
        Name of the campaign.
    potential
        The potential.
    bands
        Folder that receives each converged band, as the benchmark without a campaign leaves them.
    """
    ledger = Ledger(database, campaign)
    stage = potential_stage(potential)
    rows = {row["material_id"]: row for row in ledger.rows()}
    spec = BandBenchmarkSpec.model_validate(ledger.document["spec"])
    documents = _documents(database, campaign, stage)
    answers = []
    for name, path_id in zip(material_ids(spec.path_ids), spec.path_ids, strict=True):
        stages = rows[name]["stages"]
        entry = stages.get(stage) or (stages["intake"] if stages["intake"]["status"] != Status.PASSED else None)
        answer = BandAnswer(path_id, potential=potential)
        if entry is None:
            answers.append(answer.without_barrier(NOT_RUN, "The campaign has not come to this path yet."))
        elif entry.get("content_key") in documents:
            document = documents[entry["content_key"]]
            bands.mkdir(parents=True, exist_ok=True)
            (bands / f"{name}.extxyz").write_text(document.images_extxyz)
            answers.append(answer.of_document(document))
        else:
            answers.append(answer.without_barrier(entry["reason"], entry["message"], entry.get("seconds") or 0.0))
    return answers


def _documents(database: Database, campaign: str, stage: str) -> dict[str, PathBandDocument]:
    """Documents of a stage by content key."""
    outputs = database.job_store.docs_store.query(
        {"metadata.campaign": campaign, "metadata.stage": stage}, properties=["output.results"]
    )
    found = {}
    for output in outputs:
        for result in output["output"]["results"]:
            if result["document"] is not None:
                found[result["content_key"]] = PathBandDocument.model_validate(result["document"])
    return found
