"""The report, over campaigns whose results are made up here and stored the way that jobs store them."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hopflow.flows.gate import Gate, judge
from hopflow.flows.screening import CandidateResult, failure
from hopflow.makers.documents import (
    BandDocument,
    BandRecord,
    BondValenceDocument,
    FreeVolume,
    HandoffDocument,
    HopBarrierDocument,
    LandscapeDocument,
)
from hopflow.makers.quantities import Quantity
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from hopflow.workflows import report_figures
from hopflow.workflows.campaign import launch
from hopflow.workflows.candidates import Fate, Intake, candidate_from_structure, missing_candidate
from hopflow.workflows.database import create_indexes, open_database
from hopflow.workflows.ledger import Ledger
from hopflow.workflows.report import write_report
from hopflow.workflows.report_data import ReportData, StageReport, collect, gate_text, pairs, read_labels
from hopflow.workflows.report_markup import count_text, data_link, formula_html, material_link, scientific_html
from hopflow.workflows.spec import CampaignSpec
from pymatgen.core import Lattice, Structure

EVIL = '<script>alert("x")</script>&'
EVIL_MESSAGE = "The <img src=x onerror=alert(1)> of </script><b>Li</b> & co is wrong."
ALL_STAGES = {
    "bvse": {"gate": {"max": 0.9}},
    "gnn": {"gate": {"max": 0.8, "top": 4}},
    "pes": {"gate": {"max": 2.0}},
    "neb": {"gate": {"max": 0.6}},
    "dft": {},
}


def salt(a: float) -> Structure:
    """Rock salt, written out: to build it from its space group takes half a second."""
    cation = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    anion = [[x + 0.5, y, z] for x, y, z in cation]
    return Structure(Lattice.cubic(a), ["Li"] * 4 + ["F"] * 4, cation + anion)


DOCUMENTS = {
    "bvse": BondValenceDocument,
    "gnn": HopBarrierDocument,
    "pes": LandscapeDocument,
    "neb": BandDocument,
    "dft": HandoffDocument,
}
BAND = {
    "hop_id": "h0",
    "distance_A": 2.9,
    "multiplicity": 12,
    "converged": True,
    "message": None,
    "max_force_eV_per_A": 0.04,
    "steps": 31,
    "lengths_A": [0.5 * i for i in range(7)],
}


def document(stage: str, barrier: float | None, **more):
    """A document with the fields that the report reads; a test below holds their names against the schemas."""
    fields = {
        "stage": stage,
        "formula": "LiF",
        "content_key": f"{stage}-{barrier}",
        "method": f"method of {stage}",
        "settings": {"spacing_A": 0.25},
        "versions": {"hopflow": "0.0", "numpy": "2"},
        "weights_sha256": None,
        "seconds": 1.5,
        **more,
    }
    if stage != "dft":
        fields |= {f"barrier_{n}d_eV": None if barrier is None else barrier + 0.1 * (n - 1) for n in (1, 2, 3)}
        fields["dimension"] = 0 if barrier is None else 3
    if stage == "gnn":
        fields["barrier_1d_sigma_eV"] = 0.08
    elif stage == "pes":
        wave = np.cos(np.linspace(0, 2 * math.pi, 16, endpoint=False))
        cut = [[None if u * v < -0.8 else round(2 - u - v, 4) for u in wave] for v in wave[:12]]
        fields |= {"slice_eV": cut, "level_slice_eV": cut, "potential": "m3gnet-mp-2021.2.8-direct"}
        fields["free_volumes"] = [FreeVolume(threshold_eV=0.5, connected_fraction=0.05, disconnected_fraction=0.09)]
    elif stage == "neb":
        spans = ("barrier_forward_eV", "barrier_reverse_eV", "barrier_span_eV")
        profile = [barrier * math.sin(math.pi * i / 6) for i in range(7)]
        band = BandRecord.model_construct(**BAND, **dict.fromkeys(spans, barrier), energies_eV=profile)
        fields |= {"bands": [band], "images_extxyz": "1\nc\nLi 0 0 0\n", "potential": "mace-mp-0-small"}
    elif stage == "dft":
        fields |= {"folder": "/somewhere/handoff", "images_written": 7}
    return DOCUMENTS[stage].model_construct(**fields)


def store(database, campaign: str, stage: str, answers: dict[str, float | CandidateError | None], **more) -> None:
    """Store a job's output the way jobflow does: numbers become documents, errors failures."""
    gate = Ledger(database, campaign).gate(stage)
    results = []
    for material, answer in answers.items():
        facts = {"material_id": material, "stage": stage}
        if isinstance(answer, CandidateError):
            results.append(failure(answer.reason, type(answer).__name__, str(answer), seconds=0.5, **facts))
            continue
        found = document(stage, answer, **more)
        quantity = Quantity(gate.quantity)
        value = found.quantity(quantity)
        verdict = judge(value, gate)
        results.append(
            CandidateResult(
                **facts, status=verdict.status, reason=verdict.reason, message=verdict.reason.sentence,
                quantity=gate.quantity, value=value, uncertainty=found.uncertainty(quantity),
                threshold=verdict.threshold, seconds=found.seconds, content_key=found.content_key,
                document=found.model_dump(mode="json"),
            )
        )  # fmt: skip
    number = database.collection("outputs").count_documents({})
    uuid = f"{campaign}-{stage}-{number}"
    database.collection("outputs").insert_one(
        {
            "uuid": uuid,
            "index": 1,
            "metadata": {"campaign": campaign},
            "completed_at": f"2026-01-01T00:00:{number:02d}",
            "output": {"campaign": campaign, "stage": stage, "results": [r.model_dump(mode="json") for r in results]},
        }
    )
    ledger = Ledger(database, campaign)
    ledger.sync()
    ledger.share_budgets([])


@pytest.fixture
def database(tmp_path):
    with open_database(tmp_path / "home") as found:
        create_indexes(found)
        yield found


def start(database, tmp_path, names, stages=None, extra=(), structures=None, **spec):
    """Launch a campaign over rock salts of the given names."""
    campaign = CampaignSpec.model_validate(
        {
            "name": "test",
            "materials": {"structures": str(structures or tmp_path)},
            "stages": stages or ALL_STAGES,
            **spec,
        }
    )
    crystals = [candidate_from_structure(name, salt(4.0 + 0.01 * i)) for i, name in enumerate(names)]
    intake = Intake(candidates=[*crystals, *extra], source="structures written by a test", database_version="2026.1")
    launch(database, campaign, intake, tmp_path / "home")


NAMES = [f"mp-{n}" for n in range(100, 110)]


def full_campaign(database, tmp_path, structures):
    """Ten crystals and two that fail at intake, through all stages, two on the shortlist."""
    evil = candidate_from_structure(EVIL, salt(5.0))
    object.__setattr__(evil, "formula", EVIL)
    duplicate = candidate_from_structure("copy", salt(4.0), fate=Fate.DUPLICATE, error=CandidateError("Same crystal."))
    extra = [evil, duplicate, missing_candidate("mp-999999", "There is no such id.")]
    start(database, tmp_path, NAMES, extra=extra, structures=structures)
    values: dict[str, float | CandidateError | None] = {name: 0.3 + 0.05 * i for i, name in enumerate(NAMES[:7])}
    values |= {NAMES[7]: 1.4, NAMES[8]: None, NAMES[9]: CandidateError("No charges.", Reason.OXIDATION_STATES_UNKNOWN)}
    store(database, "test", "bvse", {**values, EVIL: CandidateError(EVIL_MESSAGE)})
    store(database, "test", "gnn", {name: 0.25 + 0.07 * i for i, name in enumerate(NAMES[:7])})
    chosen = NAMES[:4]
    store(
        database, "test", "pes", dict(zip(chosen, (0.7, 0.5, 2.6, 0.9), strict=True)), warnings=["The grid is coarse."]
    )
    store(
        database, "test", "neb",
        dict(zip(chosen, (0.45, 0.2, 0.5, CandidateError("no", Reason.NOT_CONVERGED)), strict=True)),
    )  # fmt: skip
    store(database, "test", "dft", dict(zip(chosen[:2], (0.45, 0.2), strict=True)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The full campaign, its data and its page; made once, as the tests only read."""
    folder = tmp_path_factory.mktemp("campaign")
    crystals = folder / "crystals"
    crystals.mkdir()
    lines = ["file,class,conductivity_S_per_cm,reference", f"{NAMES[0]}.cif,fast,1e-3,Somebody 1976"]
    lines += [f"{NAMES[7]}.cif,poor,,", f"{NAMES[8]}.cif,poor,,", f"{NAMES[9]}.cif,unclear,,", "other.cif,fast,,"]
    (crystals / "index.csv").write_text("\n".join(lines))
    with open_database(folder / "home") as database:
        create_indexes(database)
        full_campaign(database, folder, structures=crystals)
        file = folder / "out" / "report.html"
        page = written(database, file)
        yield Finished(collect(database, "test"), page, file)


@dataclass
class Finished:
    data: ReportData
    page: Page
    file: Path


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on markup that does not nest."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "script" in self.stack or "style" in self.stack:
            return
        self.words.append(data)
        if "td" in self.stack or "th" in self.stack:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def table(self, heading: str) -> list[list[str]]:
        """Rows of the first table that has a heading."""
        return next(rows for rows in self.tables if any(heading in cell for cell in rows[0]))


def written(database, path: Path) -> Page:
    write_report(database, "test", path)
    return Page(path.read_text("utf-8"))


def without_plotly(path: Path) -> str:
    """The page less the figure library."""
    text = path.read_text("utf-8")
    return re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)


@pytest.mark.parametrize("stage", DOCUMENTS)
def test_made_up_documents_have_the_fields_of_real_ones(stage):
    made = document(stage, 0.4)
    assert set(made.model_fields_set) <= set(DOCUMENTS[stage].model_fields)
    for band in getattr(made, "bands", []):
        assert set(band.model_fields_set) <= set(BandRecord.model_fields)


def test_page_needs_nothing_else(finished):
    page = finished.page
    fetched = [
        (tag, name, value)
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "poster", "background") or (tag == "link" and name == "href")
    ]
    assert fetched == []
    assert not any(tag in ("link", "iframe", "img", "object", "embed", "base") for tag, _ in page.tags)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "@import" not in without_plotly(finished.file)
    # The figure library is in the page once.
    assert finished.file.read_text("utf-8").count("plotly.js v") == 1
    # Links lead to the Materials Project for its ids alone.
    links = {a["href"] for tag, a in page.tags if tag == "a" and (a.get("href") or "").startswith("http")}
    assert links <= {f"https://next-gen.materialsproject.org/materials/{name}" for name in (*NAMES, "mp-999999")}
    assert [p.name for p in finished.file.parent.iterdir()] == ["report.html"]


def test_every_candidate_is_counted_once_per_stage(finished):
    page, data = finished.page, finished.data
    assert len(data.rows) == 13
    table = {row[0]: [int(cell) for cell in row[1:]] for row in page.table("stage and gate")[1:] if len(row) > 1}
    assert list(table) == ["intake", "bvse", "gnn", "pes", "neb", "dft"]
    for entered, passed, rejected, failed, skipped, waiting, _ in table.values():
        assert entered == passed + rejected + failed + skipped + waiting
    #                  entered passed rejected failed skipped waiting
    assert table["intake"][:6] == [13, 11, 0, 1, 1, 0]
    assert table["bvse"][:6] == [11, 7, 2, 2, 0, 0]
    assert table["gnn"][:6] == [7, 4, 3, 0, 0, 0]
    assert table["pes"][:6] == [4, 3, 1, 0, 0, 0]
    assert table["neb"][:6] == [4, 3, 0, 1, 0, 0]
    assert table["dft"][:6] == [2, 2, 0, 0, 0, 0]
    # Everybody is either on the shortlist or lost, and reasons add up to the losses.
    ends = Counter("lost" if data.lost_at(row) else data.ending(row) for row in data.rows)
    assert ends == {"lost": 11, "on the shortlist": 2}
    for stage in (data.intake, *data.stages):
        lost = stage.counts["rejected"] + stage.counts["failed"] + stage.counts["skipped"]
        assert sum(reason.count for reason in stage.reasons) == lost
    assert Reason.OUTSIDE_TOP.sentence in page.text
    assert "Better candidates" in page.text
    # The bars of the figure say the same as the table.
    bars = report_figures.funnel(data).data
    assert [sum(bar.x[i] for bar in bars) for i in range(6)] == [row[0] for row in table.values()]


def test_shortlist_is_ranked_by_the_band(finished):
    page = finished.page
    rows = page.table("space group")
    assert [row[2] for row in rows[1:]] == [NAMES[1], NAMES[0]]
    assert rows[1][3] == "Fm-3m (225)"
    head = rows[0]
    cells = dict(zip(head, rows[1], strict=True))
    assert cells["gnnbarrier 1D, eV"] == "0.32 ± 0.08"
    assert cells["nebbarrier 1D, eV"] == "0.20"
    assert cells["directions"] == "3D"
    assert "pes: The grid is coarse." in page.text


def test_what_users_wrote_is_escaped(finished):
    page = finished.page
    text = without_plotly(finished.file)
    assert EVIL not in text
    assert "<img" not in text
    assert "<b>Li" not in text
    assert EVIL_MESSAGE in page.text
    assert any(cell == EVIL for table in page.tables for row in table for cell in row)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    plots = sum(attributes.get("class") == "plotly-graph-div" for tag, attributes in page.tags if tag == "div")
    assert plots > 0
    assert all(set(attributes) <= {"type"} for attributes in scripts)
    assert report_figures.hover_name({"formula": "<b>x</b>", "material_id": "a&b"}) == "&lt;b&gt;x&lt;/b&gt; a&amp;b"


def test_failures_stand_apart_from_rejections(finished):
    page = finished.page
    groups = {row[0]: row[1:] for row in page.table("error class")[1:]}
    assert groups["CandidateError"][0] == "4"
    assert groups["CandidateError"][1] == "intake 1, bvse 2, neb 1"
    failed = [
        row[0] for table in page.tables if table[0] == ["material", "formula", "stage", "message"] for row in table
    ]
    assert NAMES[7] not in failed
    assert NAMES[9] in failed


def test_profiles_show_bands_and_planes(finished):
    page, text = finished.page, without_plotly(finished.file)
    assert text.count("distance along the band") == 2
    assert text.count('"type":"heatmap"') == 4
    band = next(a["href"] for tag, a in page.tags if a.get("download") == f"{NAMES[1]}-band.xyz")
    assert base64.b64decode(band.split(",", 1)[1]).decode() == "1\nc\nLi 0 0 0\n"
    cif = next(a["href"] for tag, a in page.tags if a.get("download") == f"{NAMES[1]}.cif")
    structure = Structure.from_str(base64.b64decode(cif.split(",", 1)[1]).decode(), fmt="cif")
    assert structure.matches(salt(4.01))


def test_csv_holds_every_candidate(finished):
    page = finished.page
    link = next(a["href"] for tag, a in page.tags if a.get("download") == "test.csv")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link.split(",", 1)[1]).decode())))
    assert {row["material_id"] for row in rows} == {*NAMES, EVIL, "copy", "mp-999999"}
    assert next(row for row in rows if row["material_id"] == NAMES[1])["neb_value"] == "0.2"


def test_empty_shortlist_shows_who_came_farthest(database, tmp_path):
    start(database, tmp_path, NAMES[:3])
    store(database, "test", "bvse", {NAMES[0]: 0.5, NAMES[1]: 0.4, NAMES[2]: 3.0})
    store(database, "test", "gnn", {NAMES[0]: 0.9, NAMES[1]: 0.95})
    page = written(database, tmp_path / "report.html")
    assert "No candidate is on the shortlist" in page.text
    assert [row[2] for row in page.table("space group")[1:]] == NAMES[:2]
    assert "rejected at gnn" in page.text


def test_nothing_has_come_back_yet(database, tmp_path):
    start(database, tmp_path, NAMES[:3])
    page = written(database, tmp_path / "report.html")
    assert "No candidate has passed a stage yet." in page.text
    table = {row[0]: row[1:] for row in page.table("stage and gate")[1:] if len(row) > 1}
    assert table["bvse"] == ["3", "0", "0", "0", "0", "3", "0"]
    assert table["neb"] == ["0"] * 7
    assert "waiting at bvse" in page.text
    assert "not finished" in page.text


def test_all_failed_at_intake(database, tmp_path):
    start(database, tmp_path, [], extra=[missing_candidate("mp-1", "There is no mp-1.")])
    page = written(database, tmp_path / "report.html")
    assert "There is no mp-1." in page.text


def test_one_stage_alone(database, tmp_path):
    start(database, tmp_path, NAMES[:6], stages={"bvse": {"gate": {"quantity": "barrier_3d_eV", "min": 0.1, "top": 3}}})
    store(database, "test", "bvse", {name: 0.2 * i for i, name in enumerate(NAMES[:6])})
    page = written(database, tmp_path / "report.html")
    assert "gnn" not in page.text.split("Sensitivity to the gates")[0].replace("gnn, ", "")
    assert [row[2] for row in page.table("space group")[1:]] == NAMES[:3]
    assert "MACE" not in page.text
    assert "IUCrJ 4, 614" in page.text
    assert "No material has barriers from two stages" in page.text


def test_known_labels_show_where_they_ended(finished):
    page = finished.page
    summary = next(t for t in page.tables if t[0][0] == "known as" and "rejected at bvse" in t[0])
    assert summary[0] == ["known as", "rejected at bvse", "failed", "shortlist", "all"]
    assert summary[1:] == [["fast", "", "", "1", "1"], ["poor", "2", "", "", "2"], ["unclear", "", "1", "", "1"]]
    assert "1.0 × 10−3" in page.text


@pytest.mark.parametrize("place", ["crystals", "crystals/*.cif", "crystals/a.cif", ["crystals/a.cif"]])
def test_labels_are_found_beside_the_structures(tmp_path, place):
    folder = tmp_path / "crystals"
    folder.mkdir()
    (folder / "a.cif").write_text("")
    (folder / "index.csv").write_text("material_id,class\na,fast\nb,\n")
    given = str(tmp_path / place) if isinstance(place, str) else [str(tmp_path / p) for p in place]
    labels = read_labels({"materials": {"structures": given}})
    assert {name: label.expected for name, label in labels.items()} == {"a": "fast"}
    assert read_labels({"materials": {"snapshot": "x"}}) == {}


def test_comparison_has_spearmans_coefficient_of_its_definition(database, tmp_path):
    start(database, tmp_path, NAMES, stages={"bvse": {}, "gnn": {}})
    x = [0.5, 0.1, 0.9, 0.4, 0.7, 0.3, 1.0, 0.2, 0.8, 0.6]
    y = [0.3, 0.2, 0.5, 0.6, 0.4, 0.1, 0.9, 0.25, 0.7, 0.35]
    store(database, "test", "bvse", dict(zip(NAMES, x, strict=True)))
    store(database, "test", "gnn", dict(zip(NAMES, y, strict=True)))
    data = collect(database, "test")
    first, second = data.stages
    assert pairs(first, second) == {name: (x[i], y[i]) for i, name in enumerate(NAMES)}
    found = report_figures.compare(data, first, second)
    ranks = [[sorted(values).index(v) for v in values] for values in (x, y)]
    squares = sum((a - b) ** 2 for a, b in zip(*ranks, strict=True))
    assert found.spearman == pytest.approx(1 - 6 * squares / (10 * 99))
    assert found.count == 10
    assert found.mean_difference_eV == pytest.approx(sum(y) / 10 - sum(x) / 10)
    assert report_figures.spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) is None
    assert report_figures.spearman(np.ones(6), np.arange(6.0)) is None


@pytest.mark.parametrize(
    ("quantity", "bound"), [("barrier_1d_eV", "maximum"), ("connected_free_volume_fraction", "minimum")]
)
def test_sensitivity_curve_agrees_with_the_gate(quantity, bound):
    values = {f"m{i}": v for i, v in enumerate([0.1, 0.2, 0.2, 0.35, 0.5, 0.8])}
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.8, 0.9):
        gate = Gate(quantity, **{bound: threshold})
        stage = StageReport("pes", gate, "", values=values)
        passed = sum(judge(value, gate).status == "passed" for value in values.values())
        assert stage.survivors(threshold) == passed
        curve = report_figures.sensitivity(stage).data[0]
        at = [y for x, y in zip(curve.x, curve.y, strict=True) if x == threshold]
        if at and threshold in values.values():
            assert max(at) == passed


def test_words():
    assert gate_text(Gate("barrier_1d_eV", maximum=0.9, top=8)) == (
        "migration barrier, at least one direction: at most 0.9 eV, the best 8"
    )
    assert formula_html("Li10Ge(PS6)2") == "Li<sub>10</sub>Ge(PS<sub>6</sub>)<sub>2</sub>"
    assert formula_html("<i>Li2</i>") == "&lt;i&gt;Li2&lt;/i&gt;"
    assert "href" in material_link("mp-149")
    for other in ("mp-", "mp-1a", "LiF", 'mp-1"onclick="', "mp-١"):
        assert "href" not in material_link(other)
    assert scientific_html(2.14e-3) == "2.1 × 10<sup>−3</sup>"
    assert [count_text(n, "candidate") for n in (1, 2)] == ["1 candidate", "2 candidates"]
    assert data_link("a", "text/csv") == "data:text/csv;charset=utf-8;base64,YQ=="


def test_cancelled_campaigns_and_unknown_names(database, tmp_path):
    from hopflow.workflows.campaign import cancel

    start(database, tmp_path, NAMES[:2])
    cancel(database, "test")
    page = written(database, tmp_path / "report.html")
    assert "cancelled" in page.text
    with pytest.raises(HopflowError, match="no campaign 'other'"):
        write_report(database, "other", tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_unwritable_place_is_said(database, tmp_path):
    start(database, tmp_path, NAMES[:1])
    (tmp_path / "file").write_text("")
    with pytest.raises(HopflowError, match="cannot be written"):
        write_report(database, "test", tmp_path / "file" / "report.html")
