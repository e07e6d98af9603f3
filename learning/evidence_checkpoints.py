"""The trained models of barriers on disk: plain arrays and a JSON text, which load without running any code."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.errors import WeightsError
from .band_probes import PROBE_FORMAT, ProbeSettings
from .barrier_learners import to_barrier
from .forest_barriers import EVIDENCE, FittedForests, PathEvidence, evidence_by_probing
from .interval_calibration import SigmaScale
from .path_table import GEOMETRY_COLUMNS, PROBE_COLUMNS
from .prediction import file_sha256
from .tree_blends import TreeBlend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.energies import SitePotential

FORMAT = "hopflow barrier models 2"
SHIPPED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "barrier_models.npz"
"""The models that come with the package; their card is ``barrier_models.md`` beside it."""


@dataclass(frozen=True)
class BarrierModels:
    """Models of all kinds of evidence, ready to answer.

    Attributes
    ----------
    fitted
        The models.
    scales
        Of each kind, what makes its spread a sigma.
    probe
        How paths are probed.
    """

    fitted: FittedForests
    scales: dict[str, SigmaScale]
    probe: ProbeSettings

    def predict(self, items: Sequence[PathEvidence]) -> tuple[np.ndarray, np.ndarray]:
        """Barriers and their sigma in eV, shape (items,) each."""
        mean, spread = self.fitted.predict(items)
        sigma = np.array(
            [self.scales[self.fitted.kind_of(item)].sigma(own) for item, own in zip(items, spread, strict=True)]
        )
        return to_barrier(mean, sigma)


def save_models(models: BarrierModels, file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the checkpoint and, beside it, the JSON file that says what it is; return the latter's content.

    Parameters
    ----------
    models
        What was trained.
    file
        Name that ends in ``.npz``.
    facts
        More for the JSON file: data, settings, metrics.
    """
    described = {
        "format": FORMAT,
        "columns": [list(GEOMETRY_COLUMNS), list(PROBE_COLUMNS)],
        "kinds": {kind: asdict(models.scales[kind]) for kind in models.fitted.blends},
        "probe": asdict(models.probe),
        "probe_format": PROBE_FORMAT,
    }
    arrays: dict[str, np.ndarray] = {"described": np.array(json.dumps(described))}
    for kind, blend in models.fitted.blends.items():
        arrays |= blend.arrays(f"{kind}/")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    partial.replace(file)
    info = {**described, "sha256": file_sha256(file), **facts}
    file.with_suffix(".json").write_text(json.dumps(info, indent=1) + "\n")
    return info


def load_models(file: Path) -> BarrierModels:
    """Read a checkpoint.

    Raises
    ------
    WeightsError
        The file is missing, damaged or of another format.
    """
    if not file.is_file():
        raise WeightsError(f"The barrier models {file} are missing; reinstall hopflow or give another path.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        described = json.loads(str(arrays["described"]))
        mine = (FORMAT, [list(GEOMETRY_COLUMNS), list(PROBE_COLUMNS)], PROBE_FORMAT)
        if (described["format"], described["columns"], described["probe_format"]) != mine:
            raise WeightsError(f"The barrier models {file} are of another version; train them anew with this hopflow.")
        blends = {kind: TreeBlend.from_arrays(arrays, f"{kind}/") for kind in described["kinds"]}
        scales = {kind: SigmaScale(**scale) for kind, scale in described["kinds"].items()}
        return BarrierModels(FittedForests(blends), scales, ProbeSettings(**described["probe"]))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"The barrier models {file} are damaged; restore the file or train anew.") from error


@lru_cache(maxsize=4)
def _load_once(file: Path, modified_ns: int) -> BarrierModels:  # noqa: ARG001 (part of the key)
    return load_models(file)


class EvidencePredictor:
    """Models of barriers that ask a potential where they are given one.

    Parameters
    ----------
    checkpoint
        The models' file.
    evidence
        The most that is looked at, one of :data:`.forest_barriers.EVIDENCE`.
    potential
        The potential that probes paths; without one, the geometry has to do.

    Raises
    ------
    WeightsError
        The checkpoint is missing, damaged or of another format.
    """

    def __init__(self, checkpoint: Path, evidence: str, potential: SitePotential | None = None) -> None:
        if evidence not in EVIDENCE:
            raise ValueError(f"There is no evidence called {evidence!r}; allowed: {', '.join(EVIDENCE)}.")
        file = checkpoint.resolve()
        self.models = _load_once(file, file.stat().st_mtime_ns) if file.is_file() else load_models(file)
        self.evidence = evidence
        self.potential = potential

    def prepare(self, row: dict[str, Any]) -> PathEvidence:
        """What is known of a row, its probe computed now.

        Raises
        ------
        CandidateError
            The path is none.
        """
        return evidence_by_probing(row, self.potential, self.models.probe, self.evidence)

    def predict(self, prepared: Sequence[PathEvidence]) -> tuple[np.ndarray, np.ndarray]:
        """Barriers and their sigma in eV, shape (paths,) each."""
        return self.models.predict(prepared)
