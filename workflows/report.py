"""A campaign's report: one HTML file that needs nothing else and can be opened, mailed and printed."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.io
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..flows.gate import Status
from ..makers.quantities import Quantity
from ..transport.errors import HopflowError, Reason
from . import report_figures as figures
from . import report_texts as texts
from .query import csv_text
from .report_data import (
    BARRIERS,
    HANDOFF_STAGE,
    ReportData,
    StageReport,
    collect,
    interval_name,
    known_classes,
    sigma_name,
)
from .report_markup import DASH, count_text, data_link, formula_html, material_link, scientific_html, space_group_html
from .terminal import duration, is_prediction

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pymatgen.core import Structure

    from .database import Database

MAX_SHORTLIST = 50
MAX_PROFILES = 6
MAX_CANDIDATES = 500
MAX_FAILURES = 25
"""Rows that the report shows of each table; the embedded CSV holds every candidate."""

PAIRS = (("bvse", "gnn"), ("gnn", "neb"), ("pes", "neb"), ("bvse", "neb"))
PLOT_CONFIG = {
    "displayModeBar": False,
    "responsive": True,
}


def write_report(database: Database, campaign: str, output: Path) -> None:
    """Write the report of a campaign, finished or not.

    The file appears complete or not at all. It fetches nothing when it is opened; links lead to the Materials Project.

    Parameters
    ----------
    database
        The open database; nothing is written to it.
    campaign
        Name of the campaign.
    output
        The HTML file; its folder is made if it is not there.

    Raises
    ------
    HopflowError
        The database knows no such campaign, or the file cannot be written.
    """
    page = render(database, collect(database, campaign))
    try:
        _write_atomically(Path(output), page)
    except OSError as error:
        raise HopflowError(f"The report {output} cannot be written: {error.strerror}.") from error


def _write_atomically(output: Path, page: str) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(page)
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner can read
        Path(temporary).replace(output)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def render(database: Database, data: ReportData) -> str:
    """Return the page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(
        formula=formula_html,
        space_group=space_group_html,
        scientific=scientific_html,
        short=figures.short_label,
        duration=duration,
        count=count_text,
        date=texts.date_text,
    )
    template = environment.from_string(files(__package__).joinpath("templates/report.html").read_text("utf-8"))
    numbers = iter(range(1, 1_000_000))

    def plot(figure: go.Figure | None) -> Markup | None:
        """Turn a figure into a ``div``; its JSON has ``<`` and ``>`` escaped by plotly."""
        if figure is None:
            return None
        return Markup(
            plotly.io.to_html(
                figure,
                full_html=False,
                include_plotlyjs=False,
                div_id=f"figure-{next(numbers)}",
                config=PLOT_CONFIG,
            )
        )

    shown = (data.shortlist or data.nearest)[:MAX_SHORTLIST]
    structures = {row["material_id"]: _structure(database, row) for row in shown}
    compared = [
        found
        for first, second in PAIRS
        if (x := data.stage(first)) is not None
        and (y := data.stage(second)) is not None
        and (found := figures.compare(data, x, y)) is not None
    ]
    context = {
        "data": data,
        "campaign": data.campaign,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "plotlyjs": Markup(get_plotlyjs()),
        "plot": plot,
        "funnel": figures.funnel(data),
        "funnel_stages": [data.intake, *data.stages],
        "columns": [column for stage in data.stages for column in stage_columns(stage)],
        "shortlist": [shortlist_row(data, row, structures[row["material_id"]]) for row in shown],
        "warnings": warnings(data, shown),
        "properties_known": any(value is not None for row in shown for value in row["properties"].values()),
        "profiles": [
            profile(data, row, structures[row["material_id"]])
            for row in shown[:MAX_PROFILES]
            if _has_profile(data, row)
        ],
        "compared": compared,
        "failures": failure_groups(data),
        "sensitivities": [
            (stage, figure, sensitivity_text(stage))
            for stage in data.screening
            if (figure := figures.sensitivity(stage)) is not None
        ],
        "classes": known_classes(data) if data.labels else None,
        "labelled": labelled_rows(data),
        "costs": costs(data),
        "summary": texts.summary(data),
        "methods": texts.methods(data),
        "caveats": texts.caveats(data),
        "citations": texts.citations(data),
        "candidates": [(row, data.ending(row)) for row in data.rows[:MAX_CANDIDATES]],
        "value_cell": value_cell,
        "value_note": value_note,
        "links": material_link,
        "csv": data_link(csv_text(data.rows, [stage.name for stage in data.stages]), "text/csv"),
    }
    return template.render(context)


@dataclass(frozen=True)
class Column:
    """A column of a stage's quantity in a table of materials."""

    stage: str
    quantity: Quantity
    heading: str
    unit: str


def stage_columns(stage: StageReport) -> list[Column]:
    """Columns of a stage: what its gate reads and, if that is no barrier, the barrier in 1D where it has one.

    The hand-off has a column once a DFT band came back.
    """
    if stage.name == HANDOFF_STAGE:
        computed = any("barrier_span_eV" in document for document in stage.documents.values())
        return [Column(stage.name, Quantity.BARRIER_SPAN, "DFT barrier", "eV")] if computed else []
    quantities = [] if stage.quantity is None else [stage.quantity]
    has_barrier = any(doc.get(Quantity.BARRIER_1D.value) is not None for doc in stage.documents.values())
    if has_barrier and stage.quantity not in BARRIERS:
        quantities.append(Quantity.BARRIER_1D)
    return [Column(stage.name, q, figures.short_label(q), q.unit) for q in quantities]


def value_cell(data: ReportData, row: dict[str, Any], column: Column) -> str:
    """A stage's number with its standard deviation, or what stands in its place."""
    entry = row["stages"].get(column.stage)
    stage = data.stage(column.stage)
    if entry is None or stage is None:
        return ""
    if entry["status"] in (Status.PENDING, Status.RUNNING) and entry.get("quantity") is None:
        return entry["status"]
    if entry["status"] == Status.FAILED:
        return "failed"
    document = stage.documents.get(row["material_id"], {})
    if column.quantity is Quantity.BARRIER_SPAN and entry.get("quantity") == Quantity.IMAGES_WRITTEN:
        return "inputs written"
    value = entry.get("value") if entry.get("quantity") == column.quantity else document.get(column.quantity.value)
    if value is None:
        return "none found"
    sigma = document.get(sigma_name(column.quantity)) if column.quantity in BARRIERS else None
    digits = (
        0
        if column.quantity is Quantity.IMAGES_WRITTEN
        else 2
        if column.quantity in (*BARRIERS, Quantity.BARRIER_SPAN)
        else 3
    )
    text = f"{value:.{digits}f}" + (f" ± {sigma:.{digits}f}" if sigma is not None else "")
    return f"{text} (predicted)" if is_prediction(entry) and column.quantity in BARRIERS else text


def value_note(data: ReportData, row: dict[str, Any], column: Column) -> str:
    """What is known of a barrier beyond its standard deviation: the 90 % interval and the hop that limits it."""
    stage = data.stage(column.stage)
    if stage is None or column.quantity not in BARRIERS:
        return ""
    document = stage.documents.get(row["material_id"], {})
    interval = document.get(interval_name(column.quantity))
    if interval is None:
        return ""
    hop = document["limiting_hop_ids"][BARRIERS.index(column.quantity)]
    return f"with 90 % probability {interval[0]:.2f} to {interval[1]:.2f} eV, limited by the hop {hop}"


def shortlist_row(data: ReportData, row: dict[str, Any], structure: Structure | None) -> dict[str, Any]:
    """What the table of the best candidates says of one."""
    documents = _documents(data, row)
    dimensions = {name: doc["dimension"] for name, doc in documents.items() if doc.get("dimension") is not None}
    label = data.labels.get(row["material_id"])
    return {
        "row": row,
        "space_group": _space_group(structure),
        "hull": _number(row["properties"].get("energy_above_hull_eV_per_atom"), 3),
        "gap": _number(row["properties"].get("band_gap_eV"), 2),
        "dimensions": _dimensions_text(dimensions),
        "expected": label.expected if label is not None else DASH,
        "ending": data.ending(row),
    }


def _dimensions_text(dimensions: dict[str, int]) -> str:
    """In how many directions the stages find a path; which stage finds which only where they disagree."""
    if len(set(dimensions.values())) == 1:
        return f"{next(iter(dimensions.values()))}D"
    return ", ".join(f"{name} {number}D" for name, number in dimensions.items()) or DASH


def warnings(data: ReportData, rows: list[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """What the documents warn of, as stage, sentence and the candidates that it concerns."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        for name, document in _documents(data, row).items():
            for text in dict.fromkeys(document.get("warnings") or []):
                found.setdefault((name, text), []).append(row)
    return [(stage, text, concerned) for (stage, text), concerned in found.items()]


def _documents(data: ReportData, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Documents of a candidate by stage."""
    material = row["material_id"]
    return {stage.name: stage.documents[material] for stage in data.stages if material in stage.documents}


def _has_profile(data: ReportData, row: dict[str, Any]) -> bool:
    documents = _documents(data, row)
    with_bands = any(documents.get(stage, {}).get("bands") for stage in ("neb", HANDOFF_STAGE))
    return with_bands or bool(documents.get("pes", {}).get("slice_eV"))


def profile(data: ReportData, row: dict[str, Any], structure: Structure | None) -> dict[str, Any]:
    """Pictures and files of one candidate."""
    documents = _documents(data, row)
    band, landscape = documents.get("neb", {}), documents.get("pes", {})
    plots = [
        ("Energy along the band", figures.bands(band)),
        ("Energy along the DFT band", figures.bands(documents.get(HANDOFF_STAGE, {}))),
        ("Energy of one moved ion", figures.plane(landscape.get("slice_eV"), "eV")),
        ("Lowest level at which the ion gets there", figures.plane(landscape.get("level_slice_eV"), "eV")),
    ]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", row["material_id"])
    downloads = []
    if structure is not None:
        downloads.append((f"{name}.cif", "structure (CIF)", data_link(structure.to(fmt="cif"), "chemical/x-cif")))
    if band.get("images_extxyz"):
        downloads.append((f"{name}-band.xyz", "band (extended XYZ)", data_link(band["images_extxyz"], "text/plain")))
    handoff = documents.get(HANDOFF_STAGE, {})
    return {
        "row": row,
        "plots": [(title, figure) for title, figure in plots if figure is not None],
        "downloads": downloads,
        "bands": band.get("bands") or [],
        "landscape": landscape,
        "free_volumes": landscape.get("free_volumes") or [],
        "handoff": (handoff.get("handoff") or handoff).get("folder"),
        "dft_bands": handoff.get("bands") or [],
        "dft_results": handoff.get("folder") if "barrier_span_eV" in handoff else None,
    }


def _structure(database: Database, row: dict[str, Any]) -> Structure | None:
    from pymatgen.core import Structure

    found = None
    if row.get("structure_hash"):
        found = database.structures.find_one({"_id": row["structure_hash"]})
    return None if found is None else Structure.from_dict(found["structure"])


def _space_group(structure: Structure | None) -> str:
    """Hermann-Mauguin symbol and number; a dash where symmetry cannot be determined."""
    if structure is None:
        return DASH
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    try:
        analyzer = SpacegroupAnalyzer(structure, symprec=0.01)
        return f"{analyzer.get_space_group_symbol()} ({analyzer.get_space_group_number()})"
    except (ValueError, TypeError):
        return DASH


@dataclass
class FailureGroup:
    """Failures of one class."""

    error_class: str
    count: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    examples: list[tuple[dict[str, Any], str, str]] = field(default_factory=list)


def failure_groups(data: ReportData) -> list[FailureGroup]:
    """Failures by error class, the most frequent first, with messages of the first ones."""
    groups: dict[str, FailureGroup] = {}
    for row, stage, entry in data.failures():
        name = entry.get("error_class") or entry["reason"]
        group = groups.setdefault(name, FailureGroup(name))
        group.count += 1
        group.stages[stage] = group.stages.get(stage, 0) + 1
        group.reasons[entry["reason"]] = Reason(entry["reason"]).sentence
        if len(group.examples) < MAX_FAILURES:
            group.examples.append((row, stage, entry.get("message") or ""))
    return sorted(groups.values(), key=lambda group: (-group.count, group.error_class))


def sensitivity_text(stage: StageReport) -> str:
    """Say how many candidates are within the stage's gate, and how many would be with another one."""
    quantity, gate = stage.quantity, stage.gate
    answered = len(stage.values) + stage.without_value
    parts = [f"{answered} answered"]
    if stage.without_value:
        parts.append(f"{stage.without_value} of them without a path")
    bound = None
    if gate is not None and quantity is not None:
        bound = gate.maximum if quantity.lower_is_better else gate.minimum
    if bound is not None and quantity is not None:
        step = 0.1 if quantity.unit == "eV" else 0.1 * abs(bound)
        counts = [f"{stage.survivors(x)} at {x:.3g}" for x in (bound - step, bound, bound + step)]
        parts.append(f"within the bound: {', '.join(counts)} {quantity.unit}".strip())
    return "; ".join(parts) + "."


def labelled_rows(data: ReportData) -> list[dict[str, Any]]:
    """Materials of known class with where they ended, class by class."""
    order = known_classes(data)[0] if data.labels else []
    rows = [
        {"row": row, "label": data.labels[row["material_id"]], "ending": data.ending(row)}
        for row in data.rows
        if row["material_id"] in data.labels
    ]
    return sorted(rows, key=lambda line: (order.index(line["label"].expected), line["row"]["material_id"]))


def costs(data: ReportData) -> list[dict[str, Any]]:
    """Computing time of each stage, and of all stages up to it for each candidate that passed it."""
    lines, spent = [], 0.0
    for stage in data.stages:
        total = sum(stage.seconds)
        spent += total
        lines.append(
            {
                "stage": stage.name,
                "evaluations": len(stage.seconds),
                "reused": stage.reused,
                "total": total,
                "mean": total / len(stage.seconds) if stage.seconds else None,
                "longest": max(stage.seconds, default=None),
                "passed": stage.passed,
                "per_survivor": spent / stage.passed if stage.passed else None,
            }
        )
    return lines


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"
