"""Barriers from three kinds of evidence: a path's geometry, a potential's answers, a computed NEB barrier.

A model for each amount of evidence, so that a path without the dearer ones still gets an answer: ``geometry`` needs
nothing but the path, ``probe`` what a potential says of it (:mod:`.band_probes`), ``band`` also the barrier of a
nudged elastic band. Each model is the mean of extremely randomised trees (Geurts, Ernst and Wehenkel, Mach. Learn. 63,
3 (2006)) and of small networks (:mod:`.table_networks`); both learn the logarithm of barrier and offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.checkpoints import content_key
from ..transport.errors import CandidateError
from ..transport.paths import MigrationPath
from .band_probes import PROBE_FORMAT, BandProbe, ProbeSettings, probe_path, stored_probe
from .barrier_learners import NamedLearner, Progress, to_target
from .path_table import GEOMETRY_COLUMNS, PROBE_COLUMNS, geometry_columns, probe_columns
from .table_networks import TableNetworks, TableNetworkSettings, train_networks
from .tree_ensembles import TreeEnsemble

if TYPE_CHECKING:
    from ..transport.energies import SitePotential

NEB_COLUMN = "barrier_mace_relax_eV"

EVIDENCE: tuple[str, ...] = ("geometry", "probe", "band")
"""Kinds of model; each sees the columns of those before it."""

BAND_COLUMNS: tuple[str, ...] = ("neb_target", "neb_above_probe", "lower_of_both")
"""What is said of a computed NEB barrier, on the learned scale: itself, less the probe's, and the lower of both."""

_LEAST_SPREAD = 0.02
"""Trees that all say the same are not certain of it."""


_TRAINED: dict[str, tuple[TreeEnsemble, TableNetworks | None]] = {}
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
        # the probe's best guess of the barrier, back from its compressed scale
        guess_eV = 0.5 * float(np.sinh(2.0 * self.probe[PROBE_COLUMNS.index("expected_span_4")]))
        of_band, of_probe = to_target(np.array([self.neb_eV, guess_eV]))
        return np.concatenate([self.geometry, self.probe, [of_band, of_band - of_probe, min(of_band, of_probe)]])


@dataclass(frozen=True)
class ForestSettings:
    """How the forests grow.

    Attributes
    ----------
    trees
        Trees of each forest.
    columns
        Share of the columns that a split may choose from.
    least_leaf
        Fewest paths of a leaf.
    """

    trees: int = 200
    columns: float = 0.5
    least_leaf: int = 1


@dataclass(frozen=True)
class FittedForests:
    """A model for each kind of evidence that was seen often enough.

    Attributes
    ----------
    forests, networks
        By kind; networks may be missing.
    """

    forests: dict[str, TreeEnsemble]
    networks: dict[str, TableNetworks] = field(default_factory=dict)

    def predict(self, items: Sequence[PathEvidence]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread on the learned scale, shape (items,) each; trees and networks count one half each."""
        mean, spread = np.zeros(len(items)), np.zeros(len(items))
        kinds = np.array([self.kind_of(item) for item in items])
        for kind in self.forests:
            places = np.flatnonzero(kinds == kind).tolist()
            if not places:
                continue
            table = np.stack([items[place].table(kind) for place in places])
            parts = [self.forests[kind].predict_each(table)]
            if kind in self.networks:
                parts.append(self.networks[kind].predict_each(table))
            centres = np.stack([part.mean(axis=0) for part in parts])
            mean[places] = centres.mean(axis=0)
            variance = np.mean([part.var(axis=0) for part in parts], axis=0) + centres.var(axis=0)
            spread[places] = np.sqrt(variance)
        return mean, np.maximum(spread, _LEAST_SPREAD)

    def kind_of(self, item: PathEvidence) -> str:
        """The kind of model that answers for an item."""
        at_most = EVIDENCE.index(item.kind)
        return next(kind for kind in reversed(EVIDENCE[: at_most + 1]) if kind in self.forests)


@dataclass(frozen=True)
class ForestLearner:
    """Forests and networks on geometry, on probes and on NEB barriers.

    Attributes
    ----------
    evidence
        The most that is looked at, one of :data:`EVIDENCE`.
    forest, networks
        How both parts of a model are made; no networks, no second part.
    probe
        How paths are probed. Probes are taken from the folder; :func:`.band_probes.probe_rows` computes them.
    """

    evidence: str = "probe"
    forest: ForestSettings = field(default_factory=ForestSettings)
    networks: TableNetworkSettings = field(default_factory=TableNetworkSettings)
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
        forests, networks = {}, {}
        for kind in EVIDENCE[: EVIDENCE.index(self.evidence) + 1]:
            places = [place for place, item in enumerate(items) if EVIDENCE.index(item.kind) >= EVIDENCE.index(kind)]
            if kind == "geometry" or len(places) >= max(1, len(items) // 2):
                table = np.stack([items[place].table(kind) for place in places])
                forests[kind], trained = self._model(table, target[places], seed)
                if trained is not None:
                    networks[kind] = trained
        return FittedForests(forests, networks)

    def _model(self, table: np.ndarray, target: np.ndarray, seed: int) -> tuple[TreeEnsemble, TableNetworks | None]:
        """Both parts of one kind; a learner of more evidence takes over what one of less has trained before."""
        key = content_key(
            table=table, target=target, seed=seed, forest=asdict(self.forest), networks=asdict(self.networks)
        )
        if key not in _TRAINED:
            if len(_TRAINED) >= _MOST_KEPT:
                del _TRAINED[next(iter(_TRAINED))]
            networks = train_networks(table, target, self.networks, seed) if self.networks.networks else None
            _TRAINED[key] = self._grown(table, target, seed), networks
        return _TRAINED[key]

    def _grown(self, table: np.ndarray, target: np.ndarray, seed: int) -> TreeEnsemble:
        from sklearn.ensemble import ExtraTreesRegressor

        forest = ExtraTreesRegressor(
            self.forest.trees,
            max_features=self.forest.columns,
            min_samples_leaf=self.forest.least_leaf,
            random_state=seed,
        )
        return TreeEnsemble.from_forest(forest.fit(table, target))


def evidence_of(row: dict[str, Any], path: MigrationPath, probe: BandProbe | None, evidence: str) -> PathEvidence:
    """What is known of a row, no more than ``evidence`` allows.

    Raises
    ------
    CandidateError
        The path is none.
    """
    neb_eV = row.get(NEB_COLUMN) if evidence == "band" else None
    known = isinstance(neb_eV, int | float) and not isinstance(neb_eV, bool) and 0.0 <= neb_eV < np.inf
    return PathEvidence(
        geometry_columns(path),
        None if probe is None or evidence == "geometry" else probe_columns(probe),
        float(neb_eV) if known and neb_eV is not None else None,
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
    if potential is None or evidence == "geometry":
        return known
    try:
        probe = probe_path(path, potential, settings)
    except CandidateError as error:
        return PathEvidence(known.geometry, None, known.neb_eV, str(error))
    return PathEvidence(known.geometry, probe_columns(probe), known.neb_eV)


def _named(name: str, description: str, evidence: str) -> NamedLearner:
    def create() -> ForestLearner:
        return ForestLearner(evidence)

    return NamedLearner(name, description, create)


NAMED_FORESTS: dict[str, NamedLearner] = {
    learner.name: learner
    for learner in (
        _named("geometry", "Trees and networks on images, surroundings and composition of the path.", "geometry"),
        _named("fast", "As geometry, with a potential's answers about the path (shortly relaxed images).", "probe"),
        _named("fused", "As fast, with a computed NEB barrier beside the rest.", "band"),
    )
}
"""Learners of this module by name."""

PROBING_LEARNERS: frozenset[str] = frozenset({"fast", "fused"})
"""Those that want probes in their folder."""
