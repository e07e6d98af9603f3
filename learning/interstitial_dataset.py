"""A data set of interstitial graphs with bond-valence barriers: built crystal by crystal, resumable, split honestly.

A data set is a folder of shards (``shard-00000.npz``, arrays of a few dozen crystals one after another) and a
``manifest.json``. A shard carries a key over the settings and the crystals that it was made of, so that a second call
with the same ones computes what is missing and nothing else.

Crystals whose barrier is not known (no parameters, no charges) stay in the set without a label and with the reason:
they are what the network is for. A barrier of ``inf`` is an answer: no path below the energy ceiling.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.bvse import BondValenceSettings, bond_valence_percolation
from ..transport.checkpoints import content_key, load_checkpoint, save_checkpoint
from ..transport.errors import CandidateError, Reason
from ..transport.interstitial_network import interstitial_network
from ..transport.structures import assign_oxidation_states, check_structure, structure_hash
from .crystal_graphs import build_crystal_graph
from .elements import element_table
from .evaluation import grouped_folds
from .interstitial_graphs import GLOBAL_FEATURES, InterstitialGraphSettings, graph_of_network, primitive_crystal
from .interstitial_storage import Failure, InterstitialDataset, LabelledCrystal, load_dataset, packed
from .worker_pools import worker_pool

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Counts up when a graph or a barrier of the same crystal and settings comes out differently.
METHOD_VERSION = 1
#: Tolerance (Angstrom) of the space group behind a structure prototype, pymatgen's own choice.
PROTOTYPE_SYMPREC_A = 0.1

__all__ = [
    "DatasetSettings",
    "InterstitialDataset",
    "LabelledCrystal",
    "Split",
    "build_dataset",
    "labelled_crystal",
    "load_dataset",
    "repeated_splits",
    "structure_prototype",
]

Progress = Callable[[str], None]
#: What a crystal can fail with beside a CandidateError; a bug in one must not cost the others.
_UNEXPECTED = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class DatasetSettings:
    """What is computed for each crystal.

    Attributes
    ----------
    ion
        Element symbol of the mobile ion.
    graph
        Settings of the graph.
    bond_valence
        Settings of the barriers.
    max_atoms
        Crystals with a larger primitive cell are left out, with the reason ``too_many_atoms``; None takes all.
    """

    ion: str = "Li"
    graph: InterstitialGraphSettings = field(default_factory=InterstitialGraphSettings)
    bond_valence: BondValenceSettings = field(default_factory=BondValenceSettings)
    max_atoms: int | None = 200


@dataclass(frozen=True)
class Split:
    """Sorted indices of the crystals to train on, to choose by, and to judge by."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def labelled_crystal(material_id: str, structure: Structure, settings: DatasetSettings) -> LabelledCrystal:
    """Graph and barriers of one crystal, both of its primitive cell.

    Raises
    ------
    CandidateError
        The crystal has no graph. One without barriers is no error.
    """
    check_structure(structure, settings.ion, partial_occupancies=True)
    primitive = primitive_crystal(structure, settings.graph.network.symprec_A)
    if settings.max_atoms is not None and len(primitive) > settings.max_atoms:
        check_structure(primitive, settings.ion, settings.max_atoms, partial_occupancies=True)
    prototype = structure_prototype(primitive)
    unlabelled = ""
    try:
        primitive = assign_oxidation_states(primitive, settings.ion)
    except CandidateError as error:
        unlabelled = str(error.reason)
    started = time.perf_counter()
    graph = graph_of_network(interstitial_network(primitive, settings.ion, settings.graph.network), settings.graph)
    between = time.perf_counter()
    crystal_graph = build_crystal_graph(primitive, settings.ion)
    labelling = time.perf_counter()
    barriers_eV, at_saddle = np.full(3, np.nan), np.zeros(3, dtype=bool)
    if not unlabelled:
        try:
            result = bond_valence_percolation(primitive, settings.ion, settings.bond_valence)
            barriers_eV, at_saddle = np.array(result.barriers_eV), np.array(result.at_saddle)
        except CandidateError as error:
            unlabelled = str(error.reason)
    return LabelledCrystal(
        material_id=material_id,
        formula=structure.composition.reduced_formula,
        chemical_system=structure.composition.chemical_system,
        prototype=prototype,
        atoms=len(primitive),
        barriers_eV=barriers_eV,
        at_saddle=at_saddle,
        unlabelled=unlabelled,
        graph_seconds=between - started,
        barrier_seconds=time.perf_counter() - labelling,
        graph=graph,
        crystal_graph=crystal_graph,
    )


def structure_prototype(structure: Structure) -> str:
    """The AFLOW-style prototype: anonymous formula, Pearson symbol, space group and Wyckoff letters.

    pymatgen's label from spglib (M. J. Mehl et al., Comput. Mater. Sci. 136 (2017) S1; R. E. A. Goodall et al., Sci.
    Adv. 8 (2022) eabn4117), which depends neither on the order of the elements nor on the choice of the origin.
    Crystals with partly occupied sites, for which it is not defined, have their anonymous formula and space group.
    """
    from pymatgen.analysis.prototypes import get_protostructure_label_from_spglib, get_prototype_from_protostructure

    if structure.is_ordered:
        bare = structure.copy()
        bare.remove_oxidation_states()
        label = get_protostructure_label_from_spglib(bare, init_symprec=PROTOTYPE_SYMPREC_A)
        if label.count(":") == 1:
            return str(get_prototype_from_protostructure(label))
    try:
        _, number = structure.get_space_group_info(symprec=PROTOTYPE_SYMPREC_A)
    except (TypeError, ValueError):
        number = 1
    return f"{structure.composition.anonymized_formula} in space group {number}"


def build_dataset(
    structures: Iterable[tuple[str, Structure | CandidateError]],
    folder: Path,
    settings: DatasetSettings | None = None,
    progress: Progress | None = None,
    shard_size: int = 50,
    workers: int = 1,
    total: int | None = None,
) -> dict[str, Any]:
    """Build the data set, or go on with one that was interrupted.

    Parameters
    ----------
    structures
        Name and structure of each crystal; an error in the place of one that could not be read is counted.
    folder
        Where the set is; made if need be.
    settings
        Defaults to ``DatasetSettings()``.
    progress
        Called with one line after each shard.
    shard_size
        Crystals a shard; an interrupted run loses the shards in work.
    workers
        Processes.
    total
        Number of crystals, for the progress alone.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        The folder holds a set with other settings or of another version.
    """
    settings = settings or DatasetSettings()
    folder = Path(folder)
    say = progress or (lambda _: None)
    head = _head(settings)
    _refuse_other(folder, head)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "manifest.json", {**head, "complete": False})
    tally = _Tally(total, say)
    if workers == 1:
        for number, batch in enumerate(_batches(structures, shard_size)):
            tally.add(_shard(folder, number, batch, settings))
    else:
        with worker_pool(workers) as pool:
            waiting: list[Future[dict[str, Any]]] = []
            for number, batch in enumerate(_batches(structures, shard_size)):
                waiting.append(pool.submit(_shard, folder, number, batch, settings))
                # Read no farther ahead than the workers need: a database does not fit into memory.
                if len(waiting) >= 2 * workers:
                    tally.add(waiting.pop(0).result())
            for future in waiting:
                tally.add(future.result())
    manifest = {**head, "complete": True, **tally.summary()}
    _write_json(folder / "manifest.json", manifest)
    return manifest


def repeated_splits(groups: Sequence[Hashable], repeats: int = 10, seed: int = 0) -> list[Split]:
    """Splits 8:1:1 that keep groups whole, each repeat on its own.

    Parameters
    ----------
    groups
        Group of each crystal: its chemical system, its prototype, or ``range(n)`` for a random split.
    repeats
        How many splits.
    seed
        The same seed gives the same splits.

    Notes
    -----
    The crystals are dealt to ten folds (:func:`.evaluation.grouped_folds`), of which one is for the test and one for
    the choice of a model. A group that holds more than a tenth of all makes its fold larger.
    """
    numbers: dict[Hashable, int] = {}
    labels = [numbers.setdefault(group, len(numbers)) for group in groups]
    splits = []
    for repeat in range(repeats):
        own = 1000 * seed + repeat
        folds = grouped_folds(labels, 10, own)
        # The largest group is dealt first, to fold 0, so the roles of the folds are drawn.
        test, validation = np.random.default_rng(own).permutation(10)[:2]
        splits.append(
            Split(
                train=np.flatnonzero((folds != test) & (folds != validation)),
                validation=np.flatnonzero(folds == validation),
                test=np.flatnonzero(folds == test),
            )
        )
    return splits


class _Tally:
    """Counts over shards, and a line about each."""

    def __init__(self, total: int | None, say: Progress) -> None:
        self.total, self.say = total, say
        self.shards: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.computed = 0

    def add(self, shard: dict[str, Any]) -> None:
        self.shards.append(shard)
        seen = sum(each["crystals"] + len(each["failures"]) for each in self.shards)
        here = shard["crystals"] + len(shard["failures"])
        if shard["kept"]:
            how = "kept from before"
        else:
            self.computed += here
            how = f"{shard['labelled']} labelled, {len(shard['failures'])} failed"
        line = f"{shard['file']}: {here} crystals, {how}; {seen}{f' of {self.total}' if self.total else ''} done"
        if self.total and self.computed:
            left = (self.total - seen) * (time.perf_counter() - self.started) / self.computed
            line += f", {left / 60:.0f} min left"
        self.say(line)

    def summary(self) -> dict[str, Any]:
        failures = [failure for shard in self.shards for failure in shard["failures"]]
        unlabelled: Counter[str] = Counter()
        for shard in self.shards:
            unlabelled.update(shard["unlabelled"])
        return {
            "crystals": sum(shard["crystals"] for shard in self.shards),
            "labelled": sum(shard["labelled"] for shard in self.shards),
            "without_path": sum(shard["without_path"] for shard in self.shards),
            "unlabelled_by_reason": dict(unlabelled.most_common()),
            "failures_by_reason": dict(Counter(failure["reason"] for failure in failures).most_common()),
            "failures": failures,
            "graph_seconds": sum(shard["graph_seconds"] for shard in self.shards),
            "barrier_seconds": sum(shard["barrier_seconds"] for shard in self.shards),
            "shards": [{"file": shard["file"], "key": shard["key"]} for shard in self.shards],
        }


def _batches(
    structures: Iterable[tuple[str, Structure | CandidateError]], size: int
) -> Iterator[list[tuple[str, Structure | CandidateError]]]:
    source = iter(structures)
    while batch := list(itertools.islice(source, size)):
        yield batch


def _shard(
    folder: Path, number: int, batch: list[tuple[str, Structure | CandidateError]], settings: DatasetSettings
) -> dict[str, Any]:
    """Compute and write a shard unless it is there already; what the manifest says about it."""
    names = [name for name, _ in batch]
    content = [str(item) if isinstance(item, CandidateError) else structure_hash(item) for _, item in batch]
    key = content_key(head=_head(settings), names=names, content=content)
    file = folder / f"shard-{number:05d}.npz"
    arrays = load_checkpoint(file, key)
    kept = arrays is not None
    if arrays is None:
        found = [_attempt(name, item, settings) for name, item in batch]
        crystals = [each for each in found if isinstance(each, LabelledCrystal)]
        arrays = packed(crystals, [each for each in found if isinstance(each, Failure)])
        save_checkpoint(file, key, arrays)
    barriers_eV = arrays["barriers_eV"]
    reasons = [str(reason) for reason in arrays["unlabelled"] if str(reason)]
    return {
        "file": file.name,
        "key": key,
        "kept": kept,
        "crystals": len(barriers_eV),
        "labelled": int((~np.isnan(barriers_eV[:, 0])).sum()),
        "without_path": int(np.isinf(barriers_eV[:, 0]).sum()),
        "unlabelled": dict(Counter(reasons)),
        "failures": json.loads(str(arrays["failures"])),
        "graph_seconds": float(arrays["graph_seconds"].sum()),
        "barrier_seconds": float(arrays["barrier_seconds"].sum()),
    }


def _attempt(name: str, item: Structure | CandidateError, settings: DatasetSettings) -> LabelledCrystal | Failure:
    if isinstance(item, CandidateError):
        return Failure(name, str(item.reason), str(item))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return labelled_crystal(name, item, settings)
    except CandidateError as error:
        return Failure(name, str(error.reason), str(error))
    except _UNEXPECTED as error:
        return Failure(name, str(Reason.UNEXPECTED_ERROR), f"{type(error).__name__}: {error}")


def _head(settings: DatasetSettings) -> dict[str, Any]:
    """What a set is made with, as it comes back from JSON."""
    head = {
        "method_version": METHOD_VERSION,
        "settings": asdict(settings),
        "global_features": list(GLOBAL_FEATURES),
        "elements": list(element_table().symbols),
        "prototype": f"AFLOW-style label from spglib at {PROTOTYPE_SYMPREC_A} Angstrom",
    }
    content: dict[str, Any] = json.loads(json.dumps(head))
    return content


def _refuse_other(folder: Path, head: dict[str, Any]) -> None:
    file = folder / "manifest.json"
    if not file.is_file():
        return
    before = json.loads(file.read_text())
    changed = [name for name, value in head.items() if before.get(name) != value]
    if changed:
        raise ValueError(
            f"{folder} holds a data set with another {' and '.join(changed)}; choose another folder or remove it."
        )


def _write_json(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(file)
