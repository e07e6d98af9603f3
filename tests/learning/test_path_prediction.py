"""The shipped ensemble: invariances, bookkeeping, safety of loading, and what it makes of known paths."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hopflow.learning.prediction import SHIPPED_CHECKPOINT, checkpoint_info, elements_seen, file_sha256, predict_paths
from hopflow.transport.errors import CandidateError, Reason, WeightsError
from hopflow.transport.paths import MigrationPath
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr


def crystal_path(seed: int) -> MigrationPath:
    """A path through a crowd of Li, P, O and S without any symmetry, none nearer than 1.5 Angstrom to another."""
    generator = np.random.default_rng(seed)
    lattice = np.array([[7.1, 0.3, 0.0], [0.4, 6.6, 0.2], [-0.8, 0.5, 7.9]])
    ends = np.array([[0.2, 0.3, 0.4], [0.55, 0.45, 0.6]])
    path = np.linspace(ends[0], ends[1], 5)
    placed: list[np.ndarray] = []
    while len(placed) < 22:
        trial = generator.random(3)
        others = np.array([*placed, *path])
        step = others - trial
        distance = np.linalg.norm((step - np.round(step)) @ lattice, axis=1)
        if distance.min() > 1.5:
            placed.append(trial)
    species = generator.choice(["Li", "P", "O", "S"], size=len(placed), p=[0.2, 0.15, 0.4, 0.25])
    return MigrationPath("Li", lattice, tuple(species.tolist()), np.array(placed), path, f"crowd {seed}")


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_barrier_depends_on_nothing_but_the_arrangement(crystal: int, change: int):
    """Turned, shifted, relisted, wrapped, retiled, reversed: the same barrier and the same sigma."""
    path = crystal_path(crystal)
    generator = np.random.default_rng(change)
    atoms = len(path.framework_species)
    order = generator.permutation(atoms)
    turn = Rotation.random(rng=generator).as_matrix()
    shift = generator.random(3)
    tiling = np.array([2, 1, 1])[generator.permutation(3)]
    cells = np.array(np.meshgrid(*(range(n) for n in tiling))).reshape(3, -1).T
    tiled = (path.framework_frac_coords[None, :, :] + cells[:, None, :]).reshape(-1, 3) / tiling
    sheared = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    others = {
        "reversed": replace(path, path_frac_coords=path.path_frac_coords[::-1]),
        "turned": replace(path, lattice=path.lattice @ turn),
        "mirrored": replace(path, lattice=path.lattice * np.array([1, 1, -1])),
        "shifted": replace(
            path,
            framework_frac_coords=path.framework_frac_coords + shift,
            path_frac_coords=path.path_frac_coords + shift,
        ),
        "relisted": replace(
            path,
            framework_species=tuple(path.framework_species[i] for i in order),
            framework_frac_coords=path.framework_frac_coords[order],
        ),
        "wrapped": replace(
            path, framework_frac_coords=path.framework_frac_coords + generator.integers(-2, 3, (atoms, 3))
        ),
        "supercell": replace(
            path,
            lattice=path.lattice * tiling[:, None],
            framework_species=path.framework_species * int(tiling.prod()),
            framework_frac_coords=tiled,
            path_frac_coords=path.path_frac_coords / tiling,
        ),
        "other cell vectors": replace(
            path,
            lattice=sheared @ path.lattice,
            framework_frac_coords=path.framework_frac_coords @ np.linalg.inv(sheared),
            path_frac_coords=path.path_frac_coords @ np.linalg.inv(sheared),
        ),
    }
    barriers, sigmas = predict_paths([path, *others.values()])
    for name, barrier, sigma in zip(others, barriers[1:], sigmas[1:], strict=True):
        assert barrier == pytest.approx(barriers[0], rel=2e-3, abs=1e-3), name
        assert sigma == pytest.approx(sigmas[0], rel=2e-3, abs=1e-3), name


def test_different_paths_of_one_crystal_are_told_apart():
    path = crystal_path(1)
    species = tuple("O" if symbol == "S" else symbol for symbol in path.framework_species)
    tighter = replace(path, lattice=path.lattice * 0.93)
    barriers, sigmas = predict_paths([path, replace(path, framework_species=species), tighter])
    assert len(np.unique(barriers.round(4))) == 3
    assert (barriers >= 0).all()
    assert (sigmas > 0).all()


def test_neighbours_in_a_call_change_nothing():
    paths = [crystal_path(seed) for seed in range(4)]
    together, _ = predict_paths(paths)
    alone = [predict_paths([path])[0][0] for path in paths]
    assert np.allclose(together, alone, atol=1e-4)


def test_no_paths_no_barriers():
    barriers, sigmas = predict_paths([])
    assert barriers.shape == sigmas.shape == (0,)


def test_elements_beyond_training_are_answered_and_unknown_ones_refused():
    path = crystal_path(2)
    seen = elements_seen()
    assert "Th" not in seen["framework"]
    foreign = replace(path, framework_species=tuple("Th" if s == "P" else s for s in path.framework_species))
    barrier, sigma = predict_paths([foreign])
    assert np.isfinite([barrier[0], sigma[0]]).all()
    with pytest.raises(CandidateError) as caught:
        predict_paths([replace(path, framework_species=("Ne", *path.framework_species[1:]))])
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT


def test_checkpoint_is_the_one_that_its_card_describes():
    info = checkpoint_info()
    assert info["sha256"] == file_sha256(SHIPPED_CHECKPOINT)
    assert info["sha256"] in SHIPPED_CHECKPOINT.with_suffix(".md").read_text()
    assert "2508.06459" in info["data"]["citation"]
    assert info["data"]["rows"] == 559
    assert "Li" in info["elements_seen"]["ions"]
    assert SHIPPED_CHECKPOINT.stat().st_size < 6e6


def test_damaged_missing_or_hostile_checkpoints_are_refused(tmp_path: Path):
    import torch

    path = crystal_path(0)
    with pytest.raises(WeightsError, match="missing"):
        predict_paths([path], tmp_path / "nothing.pt")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(SHIPPED_CHECKPOINT.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged"):
        predict_paths([path], damaged)
    hostile = tmp_path / "hostile.pt"
    marker = tmp_path / "executed"
    torch.save({"format": _Hostile(str(marker))}, hostile)
    with pytest.raises(WeightsError):
        predict_paths([path], hostile)
    assert not marker.exists()
    other = tmp_path / "other.pt"
    torch.save({"format": "something else"}, other)
    with pytest.raises(WeightsError, match="another version"):
        predict_paths([path], other)
    (tmp_path / "other.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="not the one"):
        checkpoint_info(other)


class _Hostile:
    """An object whose unpickling would create a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(self.target),))


def test_importing_prediction_leaves_torch_alone():
    code = "import sys, hopflow.learning.prediction; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.shared
def test_predictions_follow_the_barriers_of_the_training_set():
    folder = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))
    file = folder / "data" / "migration_barriers" / "paths_train.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there; set HOPFLOW_SHARED")
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines][:150]
    barriers, sigmas = predict_paths([MigrationPath.from_row(row) for row in rows])
    true_eV = np.array([row["barrier_dft_eV"] for row in rows])
    assert spearmanr(barriers, true_eV)[0] > 0.7
    usual = true_eV <= 4.0
    # seen in training, so better than the published cross-validated numbers must be
    assert np.abs(barriers - true_eV)[usual].mean() < 0.25
    assert spearmanr(sigmas[usual], np.abs(barriers - true_eV)[usual])[0] > 0.2
