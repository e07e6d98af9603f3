"""The words of a campaign's report: how the numbers were made, what they mean, and what to cite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..makers.quantities import BarrierSource
from ..transport.errors import HopflowError
from .report_data import ReportData, StageReport

TITLES = {
    "intake": "intake",
    "bvse": "bvse: bond-valence site energy",
    "gnn": "gnn: barriers of hops as a model predicts them",
    "pes": "pes: landscape of a single ion",
    "neb": "neb: nudged elastic bands",
    "dft": "dft: hand-off to DFT-NEB",
}

CAVEATS = {
    "bvse": (
        "A bvse barrier is the level at which a single test ion percolates through a rigid, empty framework of formal "
        "charges. Nothing relaxes and no other mobile ion is present, so the numbers are mostly higher than those of "
        "DFT. They sort out crystals without a way through; they do not rank good conductors, and their gate is no "
        "barrier in the sense of an experiment."
    ),
    "gnn": (
        "A gnn barrier is what a model, trained on published DFT-NEB barriers, expects for vacancy hops "
        "between the mobile ion's own sites along straight lines. Interstitial and concerted mechanisms, and sites "
        "that are empty in the given structure, are not seen. ± is one standard deviation, from the errors of all "
        "hops as calibrated on held-out data; for chemistry unlike the training set's the error can be larger than "
        "it says."
    ),
    "pes": (
        "A pes barrier comes from moving one ion through the otherwise frozen crystal with a machine-learned "
        "potential. Neighbours cannot make way, so barriers are mostly too high, by electronvolts where mobile ions "
        "fill all their sites and block each other; far from the sites the potential extrapolates. It tells whether "
        "there is connected room for the ion, and in which directions."
    ),
    "neb": (
        "A neb barrier is the highest minus the lowest energy of a converged climbing-image band of one vacancy hop, "
        "with all atoms relaxed under a machine-learned potential, at 0 K, without DFT. Published comparisons of such "
        "bands with DFT-NEB find mean absolute errors of about 0.15 to 0.35 eV; differences between candidates smaller "
        "than that mean little. Only the hops on the path that the network found cheapest were computed."
    ),
    "dft": ("The dft stage writes inputs; no DFT calculation was run, and passing it says only that inputs exist."),
}

DFT_RESULTS_CAVEAT = (
    "The dft stage writes inputs. Where a DFT-NEB was run elsewhere and taken in, its barrier is that of one hop, the "
    "highest minus the lowest image of a converged band, in the functional that the band's folder names; candidates "
    "without one have inputs only. Barriers of different functionals or U values are not to be ranked together."
)

PREDICTED_CAVEAT = (
    "Where the bond-valence table has no parameters (hydrides, phosphides, carbides) the bvse barrier is predicted by "
    "a network that learned bond-valence barriers of other compounds; it is marked and has a standard deviation. It "
    "guesses what bond valences would say, which is no better than what they say elsewhere. The gate reads the value "
    "alone, so a candidate within a sigma of the threshold may be on the wrong side."
)

GENERAL_CAVEATS = (
    "A migration barrier is not a conductivity: the number of mobile vacancies or interstitials, the attempt "
    "frequency, grain boundaries, and the electronic and electrochemical stability are not looked at.",
    "Failed is not rejected: a failed candidate got no answer and may be a good conductor.",
    "Every gate also loses good materials. The comparison of stages shows only candidates that passed the earlier "
    "gates, which makes correlations look weaker than over all materials.",
)


@dataclass(frozen=True)
class Method:
    """How one stage's numbers were made."""

    stage: str
    title: str
    sentences: list[str]
    settings: list[tuple[str, str]]


def methods(data: ReportData) -> list[Method]:
    """Describe each stage by what its stored documents say, and by the planned settings where there are none."""
    return [_method(data, stage) for stage in data.stages]


def _method(data: ReportData, stage: StageReport) -> Method:
    documents = list(stage.documents.values())
    planned = (data.campaign["spec"].get("stages") or {}).get(stage.name) or {}
    settings = dict(planned.get("settings") or {})
    if not documents:
        sentences = ["No result is stored."]
    else:
        sentences = [
            f"Method: {_several(doc['method'] for doc in documents)}.",
            f"{len(documents)} results"
            + (f", {stage.reused} of them from earlier computations." if stage.reused else "."),
        ]
        potentials = sorted({doc["potential"] for doc in documents if doc.get("potential")})
        if potentials:
            sentences.append(f"Potential: {', '.join(potentials)}.")
        weights = sorted({doc["weights_sha256"] for doc in documents if doc.get("weights_sha256")})
        if weights:
            sentences.append(f"SHA-256 of the weights: {', '.join(weights)}.")
        sentences.append(f"Software: {_versions(documents)}.")
        for name in settings:
            used = {_setting_text(doc["settings"][name]) for doc in documents if name in doc["settings"]}
            if used:
                settings[name] = ", ".join(sorted(used))
    sentences.insert(0, f"Gate: {stage.gate_text}.")
    shown = [(name, _setting_text(value)) for name, value in settings.items()]
    return Method(stage.name, TITLES.get(stage.name, stage.name), sentences, shown)


def _several(texts: Iterable[str]) -> str:
    """One text, or each of several with how often it occurs."""
    counts = Counter(texts)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} results)" for text, count in counts.most_common())


def _versions(documents: list[dict[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for document in documents:
        for name, number in document["versions"].items():
            found.setdefault(name, set()).add(number)
    return ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in found.items()) or "not recorded"


def _setting_text(value: Any) -> str:
    if value is None:
        return "automatic"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_setting_text(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary(data: ReportData) -> str:
    """Say in a paragraph what the campaign did, for a paper's methods section."""
    campaign = data.campaign
    shape = ", then ".join(" and ".join(level) for level in campaign["levels"])
    parts = [
        f"{len(data.rows)} crystals were screened for the migration of {campaign['ion']} with hopflow "
        f"{campaign.get('versions', {}).get('hopflow', '')}".rstrip()
        + f" (campaign {data.name}, started "
        f"{date_text(campaign['created_at'])}).",
        f"Source: {campaign['source']}"
        + (f", database version {campaign['database_version']}" if campaign.get("database_version") else "")
        + (f", snapshot SHA-256 {campaign['snapshot_sha256']}." if campaign.get("snapshot_sha256") else "."),
        f"Stages in order: {shape}. Candidates went on when every stage of a step let them pass.",
    ]
    engines = {k: v for k, v in campaign.get("versions", {}).items() if k in ("jobflow", "fireworks", "atomate2")}
    if engines:
        parts.append("Jobs ran under " + ", ".join(f"{name} {number}" for name, number in engines.items()) + ".")
    return " ".join(parts)


def caveats(data: ReportData) -> list[tuple[str, str]]:
    """What the numbers of the campaign's stages mean and do not mean, as name and text."""
    found = []
    for stage in data.stages:
        if any("barrier_span_eV" in document for document in stage.documents.values()):
            found.append((stage.name, DFT_RESULTS_CAVEAT))
        elif stage.name in CAVEATS:
            found.append((stage.name, CAVEATS[stage.name]))
        if _has_predictions(stage):
            found.append((stage.name, PREDICTED_CAVEAT))
    return [*found, *(("", text) for text in GENERAL_CAVEATS)]


def _has_predictions(stage: StageReport) -> bool:
    sources = [doc["barrier_source"] for doc in stage.documents.values() if doc.get("barrier_source")]
    return any(BarrierSource(source).is_prediction for source in sources)


_SOFTWARE = (
    "A. S. Rosen et al., Jobflow: computational workflows made simple, J. Open Source Softw. 9, 5995 (2024)",
    "A. Jain et al., FireWorks: a dynamic workflow system designed for high-throughput applications, "
    "Concurrency Computat. Pract. Exper. 27, 5037 (2015)",
    "S. P. Ong et al., Python Materials Genomics (pymatgen), Comput. Mater. Sci. 68, 314 (2013)",
)
_STAGES = {
    "bvse": (
        "H. Chen and S. Adams, bond-valence parameters, IUCrJ 4, 614 (2017)",
        "A. D. Dembitskiy et al., LiTraj: bond-valence site energies and percolation barriers, "
        "npj Comput. Mater. 11, 131 (2025)",
    ),
    "gnn": ("R. Devi et al., data set of DFT-NEB migration barriers, arXiv 2508.06459",),
    "pes": ("A. Maevskiy et al., topology of the energy landscape of mobile ions, arXiv 2411.06804",),
    "neb": (
        "G. Henkelman, B. P. Uberuaga and H. Jónsson, climbing image, J. Chem. Phys. 113, 9901 (2000)",
        "G. Henkelman and H. Jónsson, improved tangent, J. Chem. Phys. 113, 9978 (2000)",
    ),
    "dft": ("A. M. Ganose et al., Atomate2: modular workflows for materials science, Digital Discovery (2025), "
            "doi 10.1039/D5DD00019J",),
}  # fmt: skip
_MATERIALS_PROJECT = "A. Jain et al., The Materials Project, APL Mater. 1, 011002 (2013)"
_INTERSTITIAL_NETWORK = "B. He et al., interstitial networks of crystals (CAVD), Sci. Data 7, 153 (2020)"
_FAMILIES = {
    "mace": "I. Batatia et al., a foundation model for atomistic materials chemistry (MACE-MP-0), arXiv 2401.00096",
    "m3gnet": "C. Chen and S. P. Ong, a universal graph deep learning interatomic potential (M3GNet), "
    "Nat. Comput. Sci. 2, 718 (2022)",
}


def citations(data: ReportData) -> list[str]:
    """Papers of what the campaign used, each once: the data, the stages, their potentials, the software."""
    found = []
    if data.campaign.get("database_version") or any(looks_like_mp_id(row["material_id"]) for row in data.rows):
        found.append(_MATERIALS_PROJECT)
    for stage in data.stages:
        found += _STAGES.get(stage.name, ())
        if any(doc.get("interstitial_network_barriers_eV") for doc in stage.documents.values()):
            found += [_INTERSTITIAL_NETWORK, _MATERIALS_PROJECT]
        for potential in sorted({doc["potential"] for doc in stage.documents.values() if doc.get("potential")}):
            found += _potential_citations(potential)
    found += _SOFTWARE
    return list(dict.fromkeys(found))


def _potential_citations(name: str) -> list[str]:
    from ..potentials.calculators import NAMED_CALCULATORS
    from ..potentials.registry import get_entry

    if name in NAMED_CALCULATORS:
        return [f"{name}: {NAMED_CALCULATORS[name].citation}"]
    try:
        entry = get_entry(name)
    except HopflowError:
        # A stored result may come from a potential that this version no longer knows.
        return []
    weights = f"weights of {name}: {entry.citation}"
    return [_FAMILIES[entry.family], weights] if entry.family in _FAMILIES else [weights]


def date_text(iso: str) -> str:
    """A time of the ledger (ISO 8601) for people, in UTC, to the minute."""
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def looks_like_mp_id(material_id: str) -> bool:
    """Whether a name is an id of the Materials Project, mp- and digits."""
    head, _, digits = material_id.partition("-")
    return head == "mp" and digits.isascii() and digits.isdigit()
