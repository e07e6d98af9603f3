"""Data sets of interstitial graphs on disk: plain arrays of many crystals one after another, and what is read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.checkpoints import load_checkpoint
from .crystal_graphs import CrystalGraph
from .elements import element_table
from .interstitial_graphs import GLOBAL_FEATURES, ROWS_OF, InterstitialGraph

_TEXTS = ("material_id", "formula", "chemical_system", "prototype", "unlabelled")
_SCALARS = ("atoms", "barriers_eV", "at_saddle", "graph_seconds", "barrier_seconds")
_OF_GRAPH = ("ion_row", "charged", "global_features")
_OF_ATOMS = tuple(each.name for each in fields(CrystalGraph))


@dataclass(frozen=True)
class LabelledCrystal:
    """One crystal of the set.

    Attributes
    ----------
    material_id, formula, chemical_system
        Name, reduced formula, elements joined by hyphens.
    prototype
        See :func:`.interstitial_dataset.structure_prototype`.
    atoms
        Atoms of its primitive cell, mobile ions included.
    barriers_eV
        Bond-valence barriers in 1, 2 and 3 dimensions from the percolating component's minimum, shape (3,); ``inf``
        for no path below the ceiling, NaN where they could not be computed.
    at_saddle
        Whether each is the energy of a saddle point of the continuous field; otherwise it is the grid's, shape (3,).
    unlabelled
        Reason code of why there are no barriers, empty where there are.
    graph_seconds, barrier_seconds
        Wall time.
    graph
        The graph of its interstitial network.
    crystal_graph
        The graph of its atoms.
    """

    material_id: str
    formula: str
    chemical_system: str
    prototype: str
    atoms: int
    barriers_eV: np.ndarray
    at_saddle: np.ndarray
    unlabelled: str
    graph_seconds: float
    barrier_seconds: float
    graph: InterstitialGraph
    crystal_graph: CrystalGraph


@dataclass(frozen=True)
class Failure:
    """A crystal without a graph: its name, a reason code of :class:`..transport.errors.Reason`, and a sentence."""

    material_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class InterstitialDataset:
    """Crystals in the order in which they were given, and what the set was made of."""

    crystals: tuple[LabelledCrystal, ...]
    manifest: dict[str, Any]

    def labels(self) -> np.ndarray:
        """Barriers in 1, 2 and 3 dimensions in eV, shape (crystals, 3)."""
        return np.array([crystal.barriers_eV for crystal in self.crystals]).reshape(-1, 3)

    def groups(self, by: str) -> list[str]:
        """``chemical_system``, ``prototype`` or ``formula`` of each crystal, to split by."""
        if by not in ("chemical_system", "prototype", "formula"):
            raise ValueError(f"crystals are grouped by chemical_system, prototype or formula, not {by!r}")
        return [str(getattr(crystal, by)) for crystal in self.crystals]


def packed(crystals: Sequence[LabelledCrystal], failures: Sequence[Failure]) -> dict[str, np.ndarray]:
    """Crystals one after another; numbers of atoms and nodes fit into 16 bits, lengths and energies into 32."""
    arrays = {name: np.array([getattr(c, name) for c in crystals], dtype=str) for name in _TEXTS}
    arrays |= {name: np.array([getattr(c, name) for c in crystals]) for name in _SCALARS}
    arrays["barriers_eV"] = arrays["barriers_eV"].reshape(-1, 3).astype(np.float64)
    arrays |= {f"graph_{name}": np.array([getattr(c.graph, name) for c in crystals]) for name in _OF_GRAPH}
    arrays["failures"] = np.array(json.dumps([asdict(failure) for failure in failures]))
    for name, kind in ROWS_OF.items():
        values = [np.asarray(getattr(c.graph, name)) for c in crystals]
        arrays[f"rows_{kind}"] = np.array([len(each) for each in values], dtype=np.int64)
        arrays[f"graph_{name}"] = _one_after_another(values)
    for name in _OF_ATOMS:
        arrays[f"crystal_{name}"] = _one_after_another([getattr(c.crystal_graph, name) for c in crystals])
    return arrays


def _one_after_another(values: Sequence[np.ndarray]) -> np.ndarray:
    rows = np.concatenate(values) if values else np.zeros(0)
    if rows.dtype.kind == "b":
        return rows
    return rows.astype(np.float32 if rows.dtype.kind == "f" else _smallest(rows))


def _widened(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "b" else values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


def _smallest(values: np.ndarray) -> type:
    if values.size and values.min() < 0:
        return np.int16 if np.abs(values).max() < 2**15 else np.int64
    return np.uint16 if values.size == 0 or values.max() < 2**16 else np.int64


def unpacked(arrays: dict[str, np.ndarray]) -> list[LabelledCrystal]:
    """Crystals from what :func:`packed` made of them."""
    first = {
        kind: np.concatenate([[0], np.cumsum(arrays[f"rows_{kind}"], dtype=np.int64)])
        for kind in sorted(set(ROWS_OF.values()))
    }
    first_atom = np.concatenate([[0], np.cumsum(arrays["atoms"], dtype=np.int64)])
    crystals = []
    for k in range(len(arrays["material_id"])):
        rows: dict[str, np.ndarray] = {}
        for name, kind in ROWS_OF.items():
            rows[name] = _widened(arrays[f"graph_{name}"][first[kind][k] : first[kind][k + 1]])
        here = slice(first_atom[k], first_atom[k + 1])
        graph = InterstitialGraph(
            ion_row=int(arrays["graph_ion_row"][k]),
            charged=bool(arrays["graph_charged"][k]),
            global_features=arrays["graph_global_features"][k],
            **rows,
        )
        texts = {name: str(arrays[name][k]) for name in _TEXTS}
        crystals.append(
            LabelledCrystal(
                **texts,
                atoms=int(arrays["atoms"][k]),
                barriers_eV=arrays["barriers_eV"][k],
                at_saddle=arrays["at_saddle"][k],
                graph_seconds=float(arrays["graph_seconds"][k]),
                barrier_seconds=float(arrays["barrier_seconds"][k]),
                graph=graph,
                crystal_graph=CrystalGraph(**{name: _widened(arrays[f"crystal_{name}"][here]) for name in _OF_ATOMS}),
            )
        )
    return crystals


def load_dataset(folder: Path) -> InterstitialDataset:
    """Read a data set that was built to its end.

    Raises
    ------
    ValueError
        There is none, it is not complete, or a shard is missing or damaged.
    """
    file = Path(folder) / "manifest.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no data set; build it first.")
    manifest = json.loads(file.read_text())
    if not manifest.get("complete"):
        raise ValueError(f"The data set in {folder} is not complete; run the command that builds it again.")
    if manifest["global_features"] != list(GLOBAL_FEATURES) or manifest["elements"] != list(element_table().symbols):
        raise ValueError(f"The data set in {folder} has other columns than this version of hopflow; build it again.")
    crystals: list[LabelledCrystal] = []
    for shard in manifest["shards"]:
        arrays = load_checkpoint(Path(folder) / shard["file"], shard["key"])
        if arrays is None:
            raise ValueError(f"{shard['file']} of {folder} is missing or damaged; run the build again.")
        crystals += unpacked(arrays)
    return InterstitialDataset(tuple(crystals), manifest)
