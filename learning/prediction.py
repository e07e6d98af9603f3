"""Barriers of migration paths from the shipped (or another) ensemble of path networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.errors import WeightsError
from ..transport.paths import MigrationPath
from .path_graphs import PathGraph, build_path_graph

if TYPE_CHECKING:
    # torch takes seconds to import; commands that predict nothing should not wait for it
    from .ensembles import LoadedEnsemble

SHIPPED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "path_network.pt"
"""The ensemble that comes with the package; its card is ``path_network.md`` beside it."""


def predict_paths(
    paths: Sequence[MigrationPath], checkpoint: Path | str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Migration barriers by the path network.

    Parameters
    ----------
    paths
        Paths of any crystals; a path and its reverse get the same barrier. A path whose number of images is not the
        network's (five) is resampled along its polyline.
    checkpoint
        An ensemble's file; the shipped one by default.

    Returns
    -------
    Barriers in eV and their sigma in eV (one standard deviation, out-of-fold calibrated: noise of the labels and
    disagreement of the members), each float64 of shape (paths,). The barrier is what the training set's sources
    call one, mostly the highest point of the band over an end (Devi et al., arXiv 2508.06459); the direction is not
    seen, so the two barriers of a lopsided path are not told apart.

    Raises
    ------
    CandidateError
        ``unsupported_element``, or a :class:`StructureError` for a path that is none.
    WeightsError
        The checkpoint is missing, damaged or of another format.
    """
    if not paths:
        return np.zeros(0), np.zeros(0)
    predictor = PathNetworkPredictor(checkpoint)
    return predictor.predict([predictor.graph(path) for path in paths])


class PathNetworkPredictor:
    """The path network as one of the :mod:`.barrier_models`: one row becomes a graph, graphs are predicted together.

    Parameters
    ----------
    checkpoint
        An ensemble's file; the shipped one by default.

    Raises
    ------
    WeightsError
        The checkpoint is missing, damaged or of another format.
    """

    def __init__(self, checkpoint: Path | str | None = None) -> None:
        self.ensemble = _loaded(checkpoint)

    def prepare(self, row: dict[str, Any]) -> PathGraph:
        """The graph of a row's path.

        Raises
        ------
        CandidateError
            ``unsupported_element``, or a :class:`StructureError` for a path that is none.
        """
        return self.graph(MigrationPath.from_row(row))

    def graph(self, path: MigrationPath) -> PathGraph:
        """As :meth:`prepare`, from the path itself."""
        return build_path_graph(path, self.ensemble.settings.graph, self.ensemble.table)

    def predict(self, prepared: Sequence[PathGraph]) -> tuple[np.ndarray, np.ndarray]:
        """Barriers and their sigma in eV, shape (paths,) each; see :func:`predict_paths`."""
        from .training import combine, predict_targets, to_barrier

        mean, sigma = combine(*predict_targets(self.ensemble.networks, prepared))
        return to_barrier(mean, self.ensemble.sigma_scale * sigma, self.ensemble.settings.offset_eV)


def checkpoint_info(checkpoint: Path | str | None = None) -> dict[str, Any]:
    """What a checkpoint is: ``sha256``, ``metrics``, ``data`` (citation, licence, rows), ``elements_seen`` and more.

    Read from the JSON file beside the checkpoint; torch is not needed.

    Raises
    ------
    WeightsError
        A file is missing, or the checkpoint is not the one that its JSON file tells of.
    """
    file = Path(checkpoint) if checkpoint else SHIPPED_CHECKPOINT
    card = file.with_suffix(".json")
    for needed in (file, card):
        if not needed.is_file():
            raise WeightsError(f"The barrier model's file {needed} is missing; reinstall hopflow or give another path.")
    info: dict[str, Any] = json.loads(card.read_text())
    if info.get("sha256") != file_sha256(file):
        raise WeightsError(
            f"The barrier model {file} is not the one that {card.name} describes; restore the file or train anew."
        )
    return info


def elements_seen(checkpoint: Path | str | None = None) -> dict[str, list[str]]:
    """Elements that the training paths held, as ``ions`` and ``framework``; others are extrapolated to."""
    return dict(checkpoint_info(checkpoint)["elements_seen"])


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _loaded(checkpoint: Path | str | None) -> LoadedEnsemble:
    """The ensemble, read once a process and once more when its file changes."""
    file = (Path(checkpoint) if checkpoint else SHIPPED_CHECKPOINT).resolve()
    if not file.is_file():
        raise WeightsError(f"The path network's file {file} is missing; reinstall hopflow or give another path.")
    return _load_once(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load_once(file: Path, modified_ns: int) -> LoadedEnsemble:  # noqa: ARG001 (part of the key)
    from .ensembles import load_ensemble

    return load_ensemble(file)
