"""Candidates from the Materials Project: one bulk query, and a fate for every id that was asked for.

The database answers a bulk query only for the ids that it has; it says nothing of the others. So requested and
returned ids are compared here, and what is missing is looked up as a task of a merged material, then among the
deprecated ones. Ids come in two spellings (``mp-149`` and ``mp-aaaaaaft``) that are equal but hash differently; they
are brought to one spelling before anything is compared.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..transport.errors import CandidateError, Reason, StructureError
from .candidates import (
    Candidate,
    Fate,
    Intake,
    IntakeError,
    candidate_from_structure,
    mark_duplicates,
    missing_candidate,
    unreadable_candidate,
)

#: Called with the number of ids that are done and the number of all.
Progress = Callable[[int, int], None]

FIELDS = (
    "material_id",
    "structure",
    "formula_pretty",
    "energy_above_hull",
    "band_gap",
    "deprecated",
    "deprecation_reasons",
    "origins",
)
#: Ids in one request. The service takes more, but a request that fails is repeated whole.
IDS_PER_REQUEST = 500

_OTHER_WAYS = "or take the candidates from a frozen snapshot (snapshot: FILE) or from files (structures: FOLDER)"
_NUMBERED = re.compile(r"(mp|mvc)-0*(\d+)")
_LETTERED = re.compile(r"mp-[a-z]{1,8}")
#: Ids above this number are spelt in letters by the database, eight of them.
_LAST_NUMBERED_ID = 3347529


def canonical_id(text: str) -> str | None:
    """Spell a Materials Project id as the database does.

    Parameters
    ----------
    text
        ``mp-149``, ``mvc-2970`` or the lettered form ``mp-aaaaaaft``; case and blanks around it do not matter.

    Returns
    -------
    str or None
        The one spelling of the id; None when the text is no id.
    """
    name = str(getattr(text, "string", text)).strip().lower()
    numbered, lettered = _NUMBERED.fullmatch(name), _LETTERED.fullmatch(name)
    if numbered and int(numbered[2]) <= _LAST_NUMBERED_ID:
        return f"{numbered[1]}-{numbered[2]}"
    if not numbered and not lettered:
        return None
    from emmet.core.mpid import AlphaID

    number = int(AlphaID(name))
    if number <= _LAST_NUMBERED_ID:
        return f"mp-{number}"
    return str(AlphaID(number, padlen=8, prefix=name.split("-")[0]))


def from_materials_project(
    mp_ids: Sequence[str] | None = None,
    mp_query: dict[str, Any] | None = None,
    api_key: str | None = None,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Intake:
    """Resolve candidates at the Materials Project.

    Parameters
    ----------
    mp_ids
        Ids to look up, in any number; asked for in requests of 500.
    mp_query
        Arguments of the summary search instead of ids, for instance
        ``{"elements": ["Li", "S"], "energy_above_hull": [0, 0.05], "num_sites": [1, 60]}``.
    api_key
        Key of the service; from ``MP_API_KEY`` (or pymatgen's ``PMG_MAPI_KEY``) when absent.
    endpoint
        Address of the service; that of the Materials Project (or ``MP_API_ENDPOINT``) when absent.
    progress
        Called after every request.

    Returns
    -------
    Intake
        One candidate a material. Ids that were merged, deprecated, not found or are no ids have that fate.

    Raises
    ------
    IntakeError
        No key, a refused key, no service, or a query that the service does not know.
    """
    if (mp_ids is None) == (mp_query is None):
        raise IntakeError("Ask the Materials Project for ids or with a query, one of the two.")
    if mp_ids is not None and not mp_ids:
        raise IntakeError("The list of Materials Project ids is empty; give at least one.")
    key = _api_key(api_key)
    with _quiet():
        rester = _connect(key, endpoint)
        with rester:
            if mp_query is not None:
                candidates = _by_query(rester, mp_query)
                if progress is not None:
                    progress(len(candidates), len(candidates))
            else:
                candidates = _by_ids(rester, mp_ids or (), progress)
            version = str(rester.db_version or "") or None
    return Intake(
        candidates=mark_duplicates(candidates),
        source=f"Materials Project, database version {version or 'unknown'}",
        database_version=version,
        query=dict(mp_query) if mp_query is not None else {"mp_ids": list(mp_ids or ())},
    )


def _by_ids(rester: Any, mp_ids: Sequence[str], progress: Progress | None) -> list[Candidate]:
    """Look up ids; candidates stand in the order of the first id that led to each."""
    names = {text: canonical_id(text) for text in dict.fromkeys(str(text).strip() for text in mp_ids)}
    wanted = list(dict.fromkeys(name for name in names.values() if name is not None))
    documents: dict[str, dict[str, Any]] = {}
    done = 0
    for chunk in _chunks(wanted):
        documents |= _summaries(rester, chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, len(wanted))

    # What is missing was merged into another material, or withdrawn, or merged into one that was withdrawn since. The
    # service leaves deprecated materials out unless it is asked for them, and then gives only those.
    leads_to = {name: name for name in documents}
    _follow_merges(rester, wanted, documents, leads_to, deprecated=False)
    for chunk in _chunks([name for name in wanted if name not in leads_to]):
        documents |= (withdrawn := _summaries(rester, chunk, deprecated=True))
        leads_to |= {name: name for name in withdrawn}
    _follow_merges(rester, wanted, documents, leads_to, deprecated=True)

    requested: dict[str, list[str]] = {}
    for text, name in names.items():
        requested.setdefault(leads_to.get(name, name) if name is not None else text, []).append(text)
    candidates = []
    for material_id, texts in requested.items():
        if material_id in documents:
            asked_by_name = any(names[text] == material_id for text in texts)
            candidates.append(_candidate(documents[material_id], texts, Fate.FOUND if asked_by_name else Fate.MERGED))
        elif names[texts[0]] is None:
            error = CandidateError(
                f"{material_id!r} is not a Materials Project id; ids look like mp-1234.", Reason.INVALID_ID
            )
            candidates.append(Candidate(material_id, texts, Fate.INVALID, error=error))
        else:
            message = f"The Materials Project knows no material {material_id}; check the id."
            missing_one = missing_candidate(material_id, message)
            candidates.append(Candidate(material_id, texts, Fate.NOT_FOUND, error=missing_one.error))
    return candidates


def _follow_merges(
    rester: Any, wanted: Sequence[str], documents: dict[str, dict[str, Any]], leads_to: dict[str, str], deprecated: bool
) -> None:
    """Find the materials that unknown ids were merged into; fetch those that are not at hand."""
    for chunk in _chunks([name for name in wanted if name not in leads_to]):
        merged = _materials_of_tasks(rester, chunk, deprecated)
        targets = sorted({target for target in merged.values() if target not in documents})
        if targets:
            documents |= _summaries(rester, targets, deprecated=deprecated or None)
        leads_to |= {name: target for name, target in merged.items() if target in documents}


def _by_query(rester: Any, query: dict[str, Any]) -> list[Candidate]:
    allowed = query_keys()
    unknown = sorted(set(query) - set(allowed))
    if unknown:
        raise IntakeError(f"mp_query does not know {', '.join(unknown)}; allowed: {', '.join(allowed)}.")
    if not any(value is not None for value in query.values()):
        raise IntakeError("mp_query is empty and would fetch the whole database; give at least one criterion.")
    arguments = dict(query)
    if (ordering := arguments.get("magnetic_ordering")) is not None:
        from pymatgen.analysis.magnetism import Ordering

        try:
            arguments["magnetic_ordering"] = Ordering(ordering)
        except ValueError:
            known = ", ".join(str(value.value) for value in Ordering)
            raise IntakeError(f"magnetic_ordering {ordering!r} is not known; allowed: {known}.") from None
    with _explained():
        rows = rester.materials.summary.search(**arguments, fields=_fields(rester), chunk_size=IDS_PER_REQUEST)
    documents = {canonical_id(row["material_id"]) or str(row["material_id"]): row for row in rows}
    return [_candidate(row, [name], Fate.FOUND) for name, row in documents.items()]


def query_keys() -> list[str]:
    """Return the keys that ``mp_query`` takes: the criteria of mp-api's summary search."""
    import inspect

    from mp_api.client.routes.materials.summary import SummaryRester

    settings = {"self", "kwargs", "material_ids", "num_chunks", "chunk_size", "all_fields", "fields"}
    names = inspect.signature(SummaryRester.search).parameters
    return [name for name in names if name not in settings and not name.startswith("_")]


def _candidate(row: dict[str, Any], requested_ids: list[str], fate: Fate) -> Candidate:
    from pymatgen.core import Structure

    name = canonical_id(row["material_id"]) or str(row["material_id"])
    task = next((o.get("task_id") for o in row.get("origins") or () if o.get("name") == "structure"), None)
    source = f"Materials Project {name}" + (f", structure of task {canonical_id(task) or task}" if task else "")
    try:
        structure = Structure.from_dict(row["structure"])
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        error = StructureError(
            f"The Materials Project sent no readable structure for {name} ({problem!r}); leave it out."
        )
        return unreadable_candidate(name, error, requested_ids, source)
    reason = None
    if row.get("deprecated"):
        why = ", ".join(str(getattr(r, "value", r)) for r in row.get("deprecation_reasons") or ()) or "no reason given"
        reason = CandidateError(
            f"The Materials Project has withdrawn {name} ({why}); look for its successor.", Reason.DEPRECATED
        )
    return candidate_from_structure(
        name,
        structure,
        requested_ids=requested_ids,
        fate=fate if reason is None else Fate.DEPRECATED,
        properties={
            "energy_above_hull_eV_per_atom": _number(row.get("energy_above_hull")),
            "band_gap_eV": _number(row.get("band_gap")),
        },
        error=reason,
        source=source,
    )


def _summaries(rester: Any, ids: Sequence[str], deprecated: bool | None = None) -> dict[str, dict[str, Any]]:
    with _explained():
        rows = rester.materials.summary.search(material_ids=list(ids), deprecated=deprecated, fields=_fields(rester))
    return {name: row for row in rows if (name := canonical_id(row["material_id"])) is not None}


def _materials_of_tasks(rester: Any, ids: Sequence[str], deprecated: bool) -> dict[str, str]:
    """Map each id to the material that has it among its tasks (what ``get_material_id_from_task_id`` does singly)."""
    with _explained():
        rows = rester.materials.search(
            task_ids=list(ids), deprecated=deprecated, fields=["material_id", "task_ids"], all_fields=False
        )
    wanted = set(ids)
    found = {}
    for row in rows:
        target = canonical_id(row["material_id"])
        for task in row.get("task_ids") or ():
            if target is not None and (name := canonical_id(task)) in wanted:
                found[str(name)] = target
    return found


def _fields(rester: Any) -> list[str]:
    available = set(rester.materials.summary.available_fields)
    return [name for name in FIELDS if name in available]


def _api_key(given: str | None) -> str:
    key = given or os.environ.get("MP_API_KEY")
    if not key:
        from pymatgen.core import SETTINGS

        key = SETTINGS.get("PMG_MAPI_KEY")
    if not key:
        raise IntakeError(
            f"The Materials Project needs an API key: set MP_API_KEY (https://materialsproject.org/api), {_OTHER_WAYS}."
        )
    return key


def _connect(key: str, endpoint: str | None, attempts: int = 3) -> Any:
    """Open the client.

    It asks for the service's heartbeat without retries of its own, so a busy gateway is given a second chance here. A
    heartbeat that is refused (403) only costs the database version.
    """
    from mp_api.client import MPRester
    from requests.exceptions import RequestException

    attempt = 1
    while True:
        try:
            with _explained():
                return MPRester(
                    api_key=key,
                    endpoint=endpoint,
                    use_document_model=False,  # plain rows: a model built from the first row would drop later fields
                    mute_progress_bars=True,
                    notify_db_version=False,
                )
        except (RequestException, ValueError, KeyError) as error:
            if attempt == attempts:
                raise IntakeError(
                    f"The Materials Project does not answer ({type(error).__name__}); try again later, {_OTHER_WAYS}."
                ) from error
            time.sleep(0.2 * attempt)
            attempt += 1


@contextmanager
def _explained() -> Iterator[None]:
    """Say the client's errors in one sentence."""
    from mp_api.client.core.exceptions import MPRestError

    try:
        yield
    except MPRestError as error:
        text = str(error)
        if "32 characters" in text or re.search(r"status code 40[13]\b", text):
            raise IntakeError(
                "The Materials Project refuses the API key; set MP_API_KEY to the 32-character key of "
                f"https://materialsproject.org/api, {_OTHER_WAYS}."
            ) from error
        if re.search(r"status code 4\d\d\b", text):
            raise IntakeError(f"The Materials Project does not understand the query: {_brief(text)}.") from error
        raise IntakeError(
            f"The Materials Project could not be asked ({_brief(text)}); try again later, {_OTHER_WAYS}."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client's warnings off the terminal; what matters is in fates and errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _brief(text: str, length: int = 200) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= length else text[: length - 3] + "..."


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _chunks(items: Sequence[str], size: int = IDS_PER_REQUEST) -> Iterable[list[str]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
