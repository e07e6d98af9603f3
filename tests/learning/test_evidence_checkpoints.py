"""The shipped barrier models, and checkpoints that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignn_paths import vacancy_rows
from hopflow.learning.band_probes import ProbeSettings
from hopflow.learning.evidence_checkpoints import (
    SHIPPED_CHECKPOINT,
    BarrierModels,
    EvidencePredictor,
    load_models,
    save_models,
)
from hopflow.learning.forest_barriers import ForestLearner, PathEvidence
from hopflow.learning.interval_calibration import SigmaScale
from hopflow.learning.path_table import GEOMETRY_COLUMNS, PROBE_COLUMNS
from hopflow.learning.prediction import file_sha256
from hopflow.learning.tree_blends import TreeBlendSettings
from hopflow.transport.errors import WeightsError


def made_up(kind: str, seed: int) -> PathEvidence:
    generator = np.random.default_rng(seed)
    geometry = generator.normal(0.0, 1.0, len(GEOMETRY_COLUMNS))
    probe = None if kind == "geometry" else generator.normal(0.0, 0.3, len(PROBE_COLUMNS))
    return PathEvidence(geometry, probe, float(generator.uniform(0.1, 1.0)) if kind == "band" else None)


@pytest.fixture(scope="module")
def small() -> BarrierModels:
    """Trained on forty made-up paths."""
    items = [made_up("band", seed) for seed in range(40)]
    barrier_eV = np.array([0.2 + abs(item.geometry[0]) + 0.5 * (item.neb_eV or 0.0) for item in items])
    learner = ForestLearner("band", TreeBlendSettings(trees=10, boosted_trees=12))
    scales = {kind: SigmaScale(0.1, 1.0) for kind in ("geometry", "probe", "band")}
    return BarrierModels(learner.fit(items, barrier_eV, list(range(40)), 0), scales, ProbeSettings(steps=3))


def test_models_come_back_from_a_file_and_answer_the_same(small: BarrierModels, tmp_path: Path) -> None:
    file = tmp_path / "models.npz"
    info = save_models(small, file, {"data": {"rows": 40}})
    back = load_models(file)
    assert back.probe == ProbeSettings(steps=3)
    assert info["sha256"] == file_sha256(file)
    items = [made_up(kind, seed) for seed, kind in enumerate(("band", "geometry", "probe", "geometry"), 100)]
    together, alone = back.predict(items), [back.predict([item]) for item in items]
    np.testing.assert_allclose(together, small.predict(items), rtol=1e-5)
    # a row's answer does not hang on what is known of its neighbours
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), rtol=1e-12)
    barriers_eV, sigmas_eV = together
    assert (barriers_eV >= 0).all()
    assert (sigmas_eV > 0).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "hopflow barrier models 0"}, "another version"),
        ({"columns": [list(GEOMETRY_COLUMNS[:-1]), list(PROBE_COLUMNS)]}, "another version"),
        ({"probe_format": -1}, "another version"),
        ({"kinds": {"guess": {}}}, "damaged"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(
    small: BarrierModels, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    file = tmp_path / "models.npz"
    save_models(small, file, {})
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    described = json.loads(str(arrays["described"])) | change
    np.savez(file, **{**arrays, "described": np.array(json.dumps(described))})
    with pytest.raises(WeightsError, match=sentence):
        load_models(file)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        load_models(tmp_path / "none.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(SHIPPED_CHECKPOINT.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged"):
        load_models(broken)


def test_the_shipped_models_load_and_are_those_of_their_card() -> None:
    models = load_models(SHIPPED_CHECKPOINT)
    assert set(models.fitted.blends) == set(models.scales) == {"geometry", "probe", "band"}
    sha256 = file_sha256(SHIPPED_CHECKPOINT)
    assert json.loads(SHIPPED_CHECKPOINT.with_suffix(".json").read_text())["sha256"] == sha256
    assert sha256 in SHIPPED_CHECKPOINT.with_suffix(".md").read_text()


def test_a_replaced_checkpoint_is_read_anew(small: BarrierModels, tmp_path: Path) -> None:
    file = tmp_path / "models.npz"
    shutil.copy(SHIPPED_CHECKPOINT, file)
    (row, *_) = vacancy_rows()
    first = EvidencePredictor(file, "geometry")
    before = first.predict([first.prepare(row)])[0]
    save_models(small, file, {})
    second = EvidencePredictor(file, "geometry")
    assert second.predict([second.prepare(row)])[0] != pytest.approx(before, abs=1e-6)


def test_without_its_potential_a_model_says_so() -> None:
    (row, *_) = vacancy_rows()
    item = EvidencePredictor(SHIPPED_CHECKPOINT, "probe").prepare(row)
    assert item.kind == "geometry"
    assert item.note == "Answered by the geometry alone: mace-mp-0-small is not at hand."
    assert EvidencePredictor(SHIPPED_CHECKPOINT, "geometry").prepare(row).note is None
