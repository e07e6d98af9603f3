"""Results that were computed elsewhere enter a campaign: found out whose they are, stored, and shown by the ledger.

They are stored as a job's output is, so that the ledger's rows can be made from the job store as ever.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..flows.gate import Status
from ..flows.screening import CandidateResult
from ..makers.documents import DftBandDocument, HandoffDocument
from ..makers.quantities import Quantity
from ..transport.errors import HopflowError, Reason
from .console import WrongUse
from .ledger import Ledger
from .liveness import in_turn

if TYPE_CHECKING:
    from .database import Database

STAGE = "dft"


@dataclass(frozen=True)
class Ingested:
    """What became of a folder.

    Attributes
    ----------
    campaign, material_id
        Whose results they are.
    outcome
        ``new``; ``replaced`` an earlier calculation; ``set_aside``, because an earlier one came farther; ``known``
        already.
    document
        What was read.
    row
        The candidate's row of the ledger, afterwards.
    """

    campaign: str
    material_id: str
    outcome: Literal["new", "replaced", "set_aside", "known"]
    document: DftBandDocument
    row: dict[str, Any]


def ingest(database: Database, folder: Path, campaign: str | None = None, material: str | None = None) -> Ingested:
    """Take the folder of a DFT-NEB into the dft stage of a campaign.

    Doing it again changes nothing. A calculation that came farther replaces an earlier one, which stays in the row's
    ``attempts``; one that came less far is kept there itself.

    Parameters
    ----------
    database
        The open database.
    folder
        Folder in which a band was computed, or that holds such folders of the hops of a path.
    campaign
        Name of the campaign; the one that the hand-off was made for when absent.
    material
        Id of the material; the one that the hand-off was made for when absent.

    Raises
    ------
    CandidateError
        The folder holds no results, or those of another material.
    HopflowError
        No candidate, or more than one, fits; or the candidate has not come to the dft stage.
    """
    from pymatgen.core import Structure

    from ..makers.dft_results import read_document
    from ..makers.folders import hop_folders, read_manifest

    if not folder.is_dir():
        raise WrongUse(f"{folder} is no folder; name the one in which VASP ran the band.")
    metadata = read_manifest(hop_folders(folder)[0]).get("metadata", {})
    ledger, row = _candidate(database, metadata, folder, campaign, material)
    ledger.sync()
    row = ledger.row(row["material_id"])
    before = _document(database, row, _entry(ledger, row))
    handoff = before.handoff if isinstance(before, DftBandDocument) else before
    host = Structure.from_dict(database.structures.find_one({"_id": row["structure_hash"]})["structure"])
    document = read_document(folder, host, ledger.document["ion"], handoff)
    # Large files take their time; only then is it this process's turn, and the row may have moved on.
    with in_turn(database, ledger.campaign):
        ledger.reload()
        ledger.sync()
        row = ledger.row(row["material_id"])
        entry = _entry(ledger, row)
        earlier = _document(database, row, entry)
        outcome = _store(ledger, row, entry, earlier, document, str(folder.resolve()))
    return Ingested(ledger.campaign, row["material_id"], outcome, document, ledger.row(row["material_id"]))


def _candidate(
    database: Database, metadata: dict[str, Any], folder: Path, campaign: str | None, material: str | None
) -> tuple[Ledger, dict[str, Any]]:
    """The campaign and the candidate that a folder belongs to."""
    names = sorted(row["_id"] for row in database.campaigns.find({}, {"_id": 1}))
    ledgers = [Ledger(database, name) for name in ([campaign] if campaign is not None else names)]
    with_dft = [ledger for ledger in ledgers if STAGE in ledger.stages]
    if not with_dft:
        which = f"Campaign {campaign!r} has" if campaign is not None else "No campaign of this database has"
        raise HopflowError(f"{which} no dft stage that could take results in.")
    if material is not None:
        found = []
        for ledger in with_dft:
            try:
                found.append((ledger, ledger.row(material)))
            except HopflowError:
                if campaign is not None:
                    raise
        asked = f"no candidate {material!r}"
    elif metadata:
        # The band's key names one candidate of a campaign; an older record, or another band of it, has the crystal.
        for criteria in (
            {"stages.neb.content_key": metadata.get("content_key_neb")},
            {"structure_hash": metadata.get("structure_hash"), "stages.intake.status": str(Status.PASSED)},
        ):
            known = next(iter(criteria.values())) is not None
            found = [(ledger, row) for ledger in with_dft for row in (ledger.rows(criteria) if known else [])]
            if found:
                break
        asked = f"no candidate with the band that {folder} was made from"
    else:
        raise WrongUse(f"{folder} has no handoff.json that says which material it is of; name it with --material ID.")
    if not found:
        where = f"Campaign {campaign!r} has" if campaign is not None else "No campaign of this database has"
        raise HopflowError(f"{where} {asked}; name another campaign, or the material with --material.")
    campaigns = [ledger.campaign for ledger, _ in found]
    if len(found) > 1:
        raise WrongUse(f"More than one campaign has it: {', '.join(campaigns)}; name one with --campaign.")
    return found[0]


def _entry(ledger: Ledger, row: dict[str, Any]) -> dict[str, Any]:
    """The candidate's entry at the dft stage."""
    entry = row["stages"].get(STAGE)
    if entry is None:
        lost = (Status.REJECTED, Status.FAILED, Status.SKIPPED)
        stages = ["intake", *ledger.stages]
        where = next((stage for stage in stages if row["stages"].get(stage, {}).get("status") in lost), None)
        why = f"it was {row['stages'][where]['status']} at {where}" if where else "it waits at an earlier stage"
        raise HopflowError(
            f"{row['material_id']} has not come to the dft stage of {ledger.campaign!r} ({why}), so there is no place "
            "for its results yet."
        )
    return entry


def _document(
    database: Database, row: dict[str, Any], entry: dict[str, Any]
) -> HandoffDocument | DftBandDocument | None:
    """The document behind an entry; None where the hand-off failed."""
    output = database.job_store.docs_store.query_one({"uuid": entry["job_uuid"]}, properties=["output"])
    for result in [] if output is None else output["output"]["results"]:
        if result["material_id"] == row["material_id"] and result["document"] is not None:
            # inputs have no barrier; a band has the place of one, computed here or elsewhere
            kind = DftBandDocument if "barrier_span_eV" in result["document"] else HandoffDocument
            return kind.model_validate(result["document"])
    return None


def _store(
    ledger: Ledger,
    row: dict[str, Any],
    entry: dict[str, Any],
    earlier: HandoffDocument | DftBandDocument | None,
    document: DftBandDocument,
    place: str,
) -> Literal["new", "replaced", "set_aside", "known"]:
    """Store a document where it is not known yet, and bring the row up to date."""
    from ..makers.dft_results import replaces

    known = [entry, *row.get("attempts", [])]
    if document.content_key in (each.get("content_key") for each in known if each.get("ingested_from")):
        return "known"
    database = ledger.database
    result = result_of(document, row["material_id"], place, entry.get("attempt", 0))
    counts = not isinstance(earlier, DftBandDocument) or replaces(document, earlier)
    output = _job_output(ledger, result, entry, counts)
    with database.transaction():
        database.job_store.docs_store.update(output, key=["uuid", "index"])
        past = entry if counts else ledger.entry(result, output)
        if not isinstance(earlier, HandoffDocument):  # the new document holds a hand-off; anything else would be lost
            database.candidates.update_one({"_id": row["_id"]}, {"$push": {"attempts": {"stage": STAGE, **past}}})
        if counts:
            ledger.record(output)
    if not counts:
        return "set_aside"
    return "replaced" if isinstance(earlier, DftBandDocument) else "new"


def result_of(document: DftBandDocument, material_id: str, place: str, attempt: int = 0) -> CandidateResult:
    """Return what the ledger keeps of a document: the barrier, or a failure with its reason."""
    value = document.barrier_span_eV
    about = {
        "material_id": material_id,
        "stage": STAGE,
        "attempt": attempt,
        "ingested_from": place,
        "content_key": document.content_key,
        "document": document.model_dump(mode="json"),
    }
    if value is None:
        return CandidateResult(
            **about,
            status=Status.FAILED,
            reason=Reason(document.reason or Reason.NOT_CONVERGED),
            error_class="NotConvergedError",
            message=document.message or Reason.NOT_CONVERGED.sentence,
        )
    return CandidateResult(
        **about,
        status=Status.PASSED,
        reason=Reason.BAND_CONVERGED,
        message=f"{summary(document)}; read from {place}.",
        quantity=Quantity.BARRIER_SPAN.value,
        value=value,
    )


def summary(document: DftBandDocument) -> str:
    """Say what a DFT band gave, or how far it came, in one line."""
    u_values = ", ".join(f"U({element}) {u:g} eV" for element, u in document.hubbard_u_eV.items())
    how = ", ".join(part for part in (document.functional or "functional of the potentials", u_values) if part)
    what = "ApproxNEB" if document.approx_neb else "DFT band"
    done = sum(image.energy_eV is not None for image in document.images)
    images = f"{done} of {document.images_expected} images"
    if document.other_hops:
        images += f" of the hop {document.hop_id}, one of {len(document.other_hops) + 1}"
    if document.barrier_span_eV is None:
        return f"{what} ({how}), {images} with energies, no barrier"
    climbing = "climbing image" if document.climbing_image is not None else "no climbing image"
    return (
        f"{what} ({how}; {images}, {climbing}) converged: {document.barrier_forward_eV:.3f} eV forward, "
        f"{document.barrier_reverse_eV:.3f} eV reverse"
    )


def _job_output(ledger: Ledger, result: CandidateResult, entry: dict[str, Any], counts: bool) -> dict[str, Any]:
    """A document of the job store, as a job of this stage would leave it; what does not count is no result of it."""
    from jobflow.core.schemas import JobStoreDocument

    now = datetime.now()  # as jobflow writes the time, by which the ledger sorts
    before = entry.get("completed_at")
    if before is not None and now.isoformat() <= before:
        # The machine that wrote the entry has a clock ahead of this one's; the order of the two must stay.
        now = datetime.fromisoformat(before) + timedelta(microseconds=1)
    rows = [result.model_dump(mode="json")]
    content = {"campaign": ledger.campaign, "stage": STAGE, "results": rows if counts else []}
    if not counts:
        content["set_aside"] = rows
    return JobStoreDocument(
        uuid=str(uuid.uuid4()),
        index=1,
        output=content,
        completed_at=now.isoformat(),
        metadata={"campaign": ledger.campaign, "stage": STAGE, "material_ids": [result.material_id]},
        hosts=[],
        name=f"{STAGE} ingest",
    ).model_dump(mode="json")
