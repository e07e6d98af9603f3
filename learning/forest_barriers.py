"""Barriers from three kinds of evidence: a path's geometry, a potential's answers, a computed NEB barrier.

A model for each amount of evidence, so that a path without the dearer ones still gets an answer: ``geometry`` needs
nothing but the path, ``probe`` what a potential says of it (:mod:`.band_probes`), ``band`` also the barrier of a
nudged elastic band. Each model is a blend of trees (:mod:`.tree_blends`) that learns the logarithm of barrier and
offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.checkpoints import content_key
from ..transport.errors import CandidateError
from ..transport.paths import MigrationPath
from .band_probes import PROBE_FORMAT, BandProbe, ProbeSettings, probe_path, stored_probe, unexpected_failure
from .barrier_learners import NamedLearner, Progress, to_target
from .path_rows import plain_barrier_eV
from .path_table import GEOMETRY_COLUMNS, PROBE_COLUMNS, geometry_columns, probe_columns
from .tree_blends import TreeBlend, TreeBlendSettings, train_blend

if TYPE_CHECKING:
    from ..transport.energies import SitePotential

NEB_COLUMN = "barrier_mace_relax_eV"

EVIDENCE: tuple[str, ...] = ("geometry", "probe", "band")
"""Kinds of model; each sees the columns of those before it."""

BAND_COLUMNS: tuple[str, ...] = ("neb_target", "neb_above_probe", "lower_of_both")
"""What is said of a computed NEB barrier, on the learned scale: itself, less the probe's, and the lower of both."""

ESTIMATES: tuple[str, ...] = ("expected_span_4", "expected_top_4", "relaxed_span_4", "expected_span_2", "static_span")
"""Columns of a probe that are barriers of sorts, the best one first; bands add their own, and the lower and the higher
of it and of the best one."""

_HIGHEST_EV = 6.0
"""Estimates above this say that two atoms met, not how high the barrier is."""

_LEAST_SPREAD = 0.02
"""Trees that all say the same are not certain of it."""


_TRAINED: dict[str, TreeBlend] = {}
_MOST_KEPT = 48
"""Models that a process remembers: three learners share the folds of a comparison."""


@dataclass(frozen=True)
class PathEvidence:
    """What is known of one path.

    Attributes
    ----------
    geometry
        Shape (len(GEOMETRY_COLUMNS),).
    probe
        Shape (len(PROBE_COLUMNS),), or None.
    neb_eV
        A computed NEB barrier in eV, or None.
    note
        Why there is no probe, or None.
    """

    geometry: np.ndarray
    probe: np.ndarray | None = None
    neb_eV: float | None = None
    note: str | None = None

    @property
    def kind(self) -> str:
        """The model that knows no more than this."""
        if self.probe is None:
            return "geometry"
        return "probe" if self.neb_eV is None else "band"

    def table(self, kind: str) -> np.ndarray:
        """The columns of a kind of model, shape (columns,)."""
        if kind == "geometry" or self.probe is None:
            return self.geometry
        if kind == "probe" or self.neb_eV is None:
            return np.concatenate([self.geometry, self.probe])
        of_band, of_probe = to_target(np.array([self.neb_eV, self._probed_eV("expected_span_4")]))
        return np.concatenate([self.geometry, self.probe, [of_band, of_band - of_probe, min(of_band, of_probe)]])

    def estimates(self, kind: str) -> np.ndarray:
        """What the potential says of the barrier, on the learned scale, shape (estimates,); none of the geometry."""
        if kind == "geometry" or self.probe is None:
            return np.zeros(0)
        found_eV = [min(self._probed_eV(name), _HIGHEST_EV) for name in ESTIMATES]
        if kind == "band" and self.neb_eV is not None:
            neb_eV, probed_eV = min(self.neb_eV, _HIGHEST_EV), found_eV[0]
            found_eV += [neb_eV, min(neb_eV, probed_eV), max(neb_eV, probed_eV)]
        return to_target(np.array(found_eV))

    def _probed_eV(self, name: str) -> float:
        """A column of the probe, back from its compressed scale."""
        assert self.probe is not None
        return 0.5 * float(np.sinh(2.0 * self.probe[PROBE_COLUMNS.index(name)]))


@dataclass(frozen=True)
class FittedForests:
    """A model for each kind of evidence that was seen often enough.

    Attributes
    ----------
    blends
        By kind.
    """

    blends: dict[str, TreeBlend]

    def predict(self, items: Sequence[PathEvidence]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread on the learned scale, shape (items,) each."""
        mean, spread = np.zeros(len(items)), np.zeros(len(items))
        kinds = np.array([self.kind_of(item) for item in items])
        for kind, blend in self.blends.items():
            places = np.flatnonzero(kinds == kind).tolist()
            if places:
                mean[places], spread[places] = blend.predict(*_tables([items[place] for place in places], kind))
        return mean, np.maximum(spread, _LEAST_SPREAD)

    def kind_of(self, item: PathEvidence) -> str:
        """The kind of model that answers for an item."""
        at_most = EVIDENCE.index(item.kind)
        return next(kind for kind in reversed(EVIDENCE[: at_most + 1]) if kind in self.blends)


def _tables(items: Sequence[PathEvidence], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Columns and estimates of a kind of model, shape (items, columns) and (items, estimates)."""
    return np.stack([item.table(kind) for item in items]), np.stack([item.estimates(kind) for item in items])


@dataclass(frozen=True)
class ForestLearner:
    """Forests and networks on geometry, on probes and on NEB barriers.

    Attributes
    ----------
    evidence
        The most that is looked at, one of :data:`EVIDENCE`.
    trees
        How the trees grow.
    probe
        How paths are probed. Probes are taken from the folder; :func:`.band_probes.probe_rows` computes them.
    """

    evidence: str = "probe"
    trees: TreeBlendSettings = field(default_factory=TreeBlendSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The computed NEB barrier, if that is looked at."""
        return (NEB_COLUMN,) if self.evidence == "band" else ()

    def settings(self) -> dict[str, Any]:
        """All numbers, and the names of the columns."""
        return {
            "learner": "Forest",
            "probes": PROBE_FORMAT,
            **asdict(self),
            "columns": [*GEOMETRY_COLUMNS, *PROBE_COLUMNS, *BAND_COLUMNS],
        }

    def prepare(
        self, rows: Sequence[dict[str, Any]], folder: Path | None = None, progress: Progress | None = None
    ) -> Sequence[PathEvidence]:
        """The evidence of each row; a path that was not probed, or could not be, has its geometry alone."""
        say = progress or (lambda _: None)
        items = []
        for number, row in enumerate(rows, 1):
            path = MigrationPath.from_row(row)
            probe = None
            if folder is not None and self.evidence != "geometry":
                probe = stored_probe(path, self.probe, folder)
            items.append(evidence_of(row, path, probe, self.evidence))
            if number % 100 == 0:
                say(f"evidence of {number} of {len(rows)} paths")
        return items

    def fit(
        self,
        items: Sequence[PathEvidence],
        barrier_eV: np.ndarray,
        groups: Sequence[int],  # noqa: ARG002  no inner split
        seed: int,
        progress: Progress | None = None,  # noqa: ARG002  seconds
    ) -> FittedForests:
        """Train the models; each learns from the paths that have its evidence."""
        target = to_target(barrier_eV)
        blends = {}
        for kind in EVIDENCE[: EVIDENCE.index(self.evidence) + 1]:
            places = [place for place, item in enumerate(items) if EVIDENCE.index(item.kind) >= EVIDENCE.index(kind)]
            if kind == "geometry" or len(places) >= max(1, len(items) // 2):
                tables = _tables([items[place] for place in places], kind)
                blends[kind] = self._blend(*tables, target[places], seed)
        return FittedForests(blends)

    def _blend(self, table: np.ndarray, estimates: np.ndarray, target: np.ndarray, seed: int) -> TreeBlend:
        """Trees of one kind; a learner of more evidence takes over what one of less has trained before."""
        key = content_key(table=table, estimates=estimates, target=target, seed=seed, trees=asdict(self.trees))
        if key not in _TRAINED:
            if len(_TRAINED) >= _MOST_KEPT:
                del _TRAINED[next(iter(_TRAINED))]
            _TRAINED[key] = train_blend(table, estimates, target, self.trees, seed)
        return _TRAINED[key]


def evidence_of(row: dict[str, Any], path: MigrationPath, probe: BandProbe | None, evidence: str) -> PathEvidence:
    """What is known of a row, no more than ``evidence`` allows.

    Raises
    ------
    CandidateError
        The path is none.
    """
    return PathEvidence(
        geometry_columns(path),
        None if probe is None or evidence == "geometry" else probe_columns(probe),
        plain_barrier_eV(row.get(NEB_COLUMN)) if evidence == "band" else None,
    )


def evidence_by_probing(
    row: dict[str, Any], potential: SitePotential | None, settings: ProbeSettings, evidence: str
) -> PathEvidence:
    """As :func:`evidence_of`, asking the potential now; where it cannot answer, the geometry has to do.

    Raises
    ------
    CandidateError
        The path is none.
    """
    path = MigrationPath.from_row(row)
    known = evidence_of(row, path, None, evidence)
    if evidence == "geometry":
        return known
    if potential is None:
        return replace(known, note=f"Answered by the geometry alone: {settings.potential} is not at hand.")
    try:
        probe = probe_path(path, potential, settings)
    except CandidateError as error:
        return replace(known, note=f"Answered by the geometry alone: {error}")
    except Exception as error:  # noqa: BLE001  the geometry has its answer whatever the potential trips over
        return replace(known, note=f"Answered by the geometry alone: {unexpected_failure(error)}")
    return PathEvidence(known.geometry, probe_columns(probe), known.neb_eV)


def _named(name: str, description: str, evidence: str) -> NamedLearner:
    def create() -> ForestLearner:
        return ForestLearner(evidence)

    return NamedLearner(name, description, create)


NAMED_FORESTS: dict[str, NamedLearner] = {
    learner.name: learner
    for learner in (
        _named("geometry", "Trees on images, surroundings and composition of the path.", "geometry"),
        _named("fast", "As geometry, with a potential's answers about the path (shortly relaxed images).", "probe"),
        _named("fused", "As fast, with a computed NEB barrier beside the rest.", "band"),
    )
}
"""Learners of this module by name."""

PROBING_LEARNERS: frozenset[str] = frozenset({"fast", "fused"})
"""Those that want probes in their folder."""
