"""Barrier models from the command line: trained and judged, interrupted, gone on with, refused in a sentence."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase.data import chemical_symbols
from command_line import call
from hopflow.learning import training
from hopflow.learning.barrier_evaluation import BarrierEvaluationSettings
from hopflow.learning.barrier_learners import NamedLearner
from hopflow.learning.classical_baselines import GradientBoosting
from hopflow.learning.ensembles import load_ensemble
from hopflow.learning.evidence_checkpoints import load_models
from hopflow.learning.evidence_training import EvidenceTrainingSettings
from hopflow.learning.forest_barriers import evidence_by_probing
from hopflow.learning.learner_registry import BARRIER_LEARNERS
from hopflow.learning.path_network import NetworkSettings
from hopflow.learning.path_network_learner import PathNetworkLearner
from hopflow.learning.training import TrainingSettings
from hopflow.makers import probing
from hopflow.workflows.learning_configs import BarrierEvaluation, BarrierTraining, read_config
from pair_potential import PairPotential
from path_tables import path_table, write_table

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "model": "path-network",
    "folds": 2,
    "members_per_fold": 1,
    "epochs": 2,
    "batch_size": 8,
    "hidden": 8,
    "layers": 1,
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(folder: Path, **content: Any) -> Path:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({key: str(v) if isinstance(v, Path) else v for key, v in content.items()}))
    return file


def test_training_goes_on_and_writes_checkpoint_card_metrics_and_figure(tmp_path, monkeypatch):
    table = write_table([*path_table(), '{"path_id": "half'], tmp_path / "rows.jsonl.gz")
    file = config(tmp_path, paths=table, output="new/trained", **SMALL)
    right, trained = training.train_member, []

    def interrupted(*words: Any, **named: Any) -> Any:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(right(*words, **named))
        return trained[0]

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_member", interrupted)
        _, err = call("train", "barrier", file, code=1)
    assert "left out: Line 22 of rows.jsonl.gz is not valid JSON" in err
    assert "member 1 of 2, epoch 2 of 2: loss" in err
    output = tmp_path / "new" / "trained"
    assert [each.name for each in output.iterdir()] == ["members"]

    out, err = call("train", "barrier", file)
    assert "member 1 of 2, epoch 2 of 2: kept from before" in err
    assert "member 2 of 2, epoch 1 of 2: loss" in err
    for what, name in (
        ("checkpoint", "path_network.pt"),
        ("model card", "path_network.md"),
        ("metrics", "metrics.json"),
        ("figure", "learning_curve.png"),
    ):
        assert f"{what}: {output / name}" in out
        assert (output / name).stat().st_size > 500
    assert (output / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((output / "metrics.json").read_text())
    # the history of the member that the first call trained is there, too
    assert metrics["losses"][0] == trained[0][1]
    assert [len(history) for history in metrics["losses"]] == [2, 2]
    assert [row["path_id"] for row in metrics["out_of_fold"]] == [row["path_id"] for row in path_table()]
    assert [row["path_id"] for row in metrics["rows_above_4_eV"]] == ["LiFePO4_3"]
    assert metrics["left_out"][0]["path_id"] == "rows:22"
    info = json.loads((output / "path_network.json").read_text())
    assert info["metrics"]["hosts"] == metrics["hosts"] == 8
    assert info["sha256"] in (output / "path_network.md").read_text()
    assert "precision_0.65_eV" in (output / "path_network.md").read_text()
    assert len(load_ensemble(output / "path_network.pt").networks) == 2
    values = metrics["table"]["network/usual"]
    (line,) = [line.split() for line in out.splitlines() if line.startswith("network") and " usual " in line]
    assert line[2:5] == ["20", f"{values['mae_eV']:.3f}", f"{values['rmse_eV']:.3f}"]
    # a third call trains nothing and says the same
    again, err = call("train", "barrier", file)
    assert again == out
    assert "loss" not in err


class AnyPairs(PairPotential):
    """Knows every element of the table but phosphorus."""

    elements = frozenset(chemical_symbols) - {"P"}


def test_the_shipped_models_are_trained_by_one_command_that_goes_on(tmp_path, monkeypatch):
    asked: list[AnyPairs] = []

    def analytic(_: Any) -> AnyPairs:
        asked.append(AnyPairs())
        return asked[-1]

    monkeypatch.setattr(probing, "probing_potential", analytic)
    table = write_table(path_table(), tmp_path / "rows.jsonl")
    file = config(tmp_path, paths=table, output="trained", folds=2, repeats=1, only_judged=["LiFePO4_3"])
    out, err = call("train", "barrier", file)
    output = tmp_path / "trained"
    assert "21 of 21 paths probed" in err
    assert err.count("not probed: pairs does not know ['P'].") == 3
    assert len(list((output / "features" / "probes").iterdir())) == 18
    assert "6 of 6: fused, repeat 1, fold 2: " in err
    for what, name in (
        ("checkpoint", "barrier_models.npz"),
        ("model card", "barrier_models.md"),
        ("metrics", "metrics.json"),
        ("figure", "parity.png"),
    ):
        assert f"{what}: {output / name}" in out
        assert (output / name).stat().st_size > 500
    info = json.loads((output / "barrier_models.json").read_text())
    assert (info["data"]["rows"], info["data"]["learned"], info["data"]["probed"]) == (21, 20, 18)
    assert list(info["kinds"]) == ["geometry", "probe", "band"]
    assert info["sha256"] in (output / "barrier_models.md").read_text()
    # labels above 4 eV stand apart, with the answer of each model
    assert "| LiFePO4_3 | " in (output / "barrier_models.md").read_text()

    # the checkpoint answers, dearer evidence first
    models = load_models(output / "barrier_models.npz")
    row = path_table()[0]
    found = {kind: models.predict([evidence_by_probing(row, AnyPairs(), models.probe, kind)]) for kind in info["kinds"]}
    assert all(np.isfinite(both).all() and both[1] > 0 for both in found.values())
    assert found["geometry"][0] != found["probe"][0] != found["band"][0]

    # a second call asks and fits nothing but what the checkpoint is made of
    before = len(asked[-1].asked)
    again, err = call("train", "barrier", file)
    assert again == out
    assert "6 folds wanted, 6 kept from before" in err
    assert before > 0
    # those three again, which could not be probed
    assert "18 of 21 paths are probed already" in err


@pytest.fixture(scope="module")
def small_learners() -> Iterator[None]:
    """The registered path network and boosted trees, made small."""
    network = NetworkSettings(hidden=8, layers=1)
    small = {
        "path-network": lambda: PathNetworkLearner(TrainingSettings(network=network, members_per_fold=1, epochs=1)),
        "gradient-boosting": lambda: GradientBoosting(trees=20),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, create in small.items():
            patch.setitem(BARRIER_LEARNERS, name, NamedLearner(name, "Small.", create))
        yield


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, small_learners) -> tuple[Path, Path, str]:
    """An evaluation that was interrupted in its fourth fold, its file, and what the second call printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    table = write_table(path_table(), folder / "rows.jsonl")
    content = {"folds": 2, "repeats": 2, "samples": 40, "sizes": [6], "curve_learners": ["gradient-boosting"]}
    content |= {"learners": ["gradient-boosting", "path-network"], "only_judged": ["LiFePO4_3"], "scenarios": True}
    file = config(folder, paths=table, output="judged", **content)
    right, done = GradientBoosting.fit, []

    def interrupted(*words: Any, **named: Any) -> Any:
        done.append(len(words[1]))
        if len(done) == 4:
            raise KeyboardInterrupt
        return right(*words, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientBoosting, "fit", interrupted)
        _, err = call("evaluate", "barrier", file, code=1)
    assert "3 of 28: gradient-boosting, repeat 2, fold 1: " in err
    assert len(list((folder / "judged" / "results" / "gradient-boosting").iterdir())) == 3
    out, err = call("evaluate", "barrier", file)
    assert "28 folds wanted, 3 kept from before" in err
    assert "with 6 training paths: 6 paths learned" in err
    return folder / "judged", file, out


def test_an_evaluation_leaves_metrics_table_and_figures(evaluated):
    output, file, out = evaluated
    metrics = json.loads((output / "metrics.json").read_text())
    found = {(entry["predictor"], entry["rows_of"]): entry for entry in metrics["table"]}
    learners = ("gradient-boosting", "path-network")
    assert set(found) == {
        *((name, rows_of) for name in (*learners, "median") for rows_of in ("all", "usual", "usual_with_mace")),
        ("mace_neb", "usual_with_mace"),
        *((f"mean of {name} and mace_neb", "usual_with_mace") for name in learners),
    }
    # by hand: mean over the repeats of the error on the rows at or below 4 eV
    rows = metrics["predictions"]
    usual = [row for row in rows if row["true_eV"] <= 4.0]
    for name in learners:
        by_hand = np.mean([[abs(each - row["true_eV"]) for each in row["predicted_eV"][name]] for row in usual])
        entry = found[name, "usual"]
        assert entry["metrics"]["mae_eV"] == pytest.approx(by_hand)
        assert entry["metrics"]["rows"] == len(usual) == len(rows) - 1
        low, high = entry["interval_90"]["mae_eV"]
        assert low <= by_hand <= high
    column = [
        abs(0.02 - 0.1 * row["barrier_dft_eV"])
        for row in path_table()
        if row["barrier_dft_eV"] <= 4.0 and row["barrier_mace_relax_eV"] is not None
    ]
    assert len(column) == len(usual) - 2
    assert found["mace_neb", "usual_with_mace"]["metrics"]["mae_eV"] == pytest.approx(np.mean(column))
    assert [(row["path_id"], set(row["answers_eV"])) for row in metrics["rows_above"]] == [("LiFePO4_3", set(learners))]
    inside = [
        abs(predicted - row["true_eV"]) <= 0.6744897501960817 * sigma
        for row in usual
        for predicted, sigma in zip(row["predicted_eV"][name], row["sigma_eV"][name], strict=True)
    ]
    assert metrics["coverage"][name]["scaled_sigma"]["eV"]["0.5"] == pytest.approx(np.mean(inside))
    # 21 rows without the one that is never learned from, halved
    assert [entry["training_paths"] for entry in metrics["learning_curve"]] == [6, pytest.approx(10.0)]
    assert {entry["scenario"] for entry in metrics["scenarios"]} == {"A", "B", "C"}
    (as_new,) = [e for e in metrics["scenarios"] if e["scenario"] == "C" and e["predictor"] == name]
    assert as_new["mae_eV"] == as_new["mae_eV_as_new_host"] == pytest.approx(found[name, "usual"]["metrics"]["mae_eV"])
    table = (output / "table.md").read_text()
    assert f"| {name} | usual | {len(usual)} | {by_hand:.3f} ({low:.3f} to {high:.3f}) |" in table
    for head in (
        "| predictor | training paths | mae_eV |",
        "| scenario |",
        "| paths of one crystal |",
        "| row above 4 eV",
    ):
        assert head in table
    for name in ("parity.png", "coverage.png", "learning_curve.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
        assert f"figure: {output / name}" in out
    # gone on with: nothing is computed, and a program gets what the file holds
    as_json, err = call("evaluate", "barrier", file, "--json")
    assert "28 folds wanted, 28 kept from before" in err
    assert json.loads(as_json) == metrics


def test_another_learner_computes_only_its_own_folds(evaluated, tmp_path):
    output, file, _ = evaluated
    content = yaml.safe_load(file.read_text()) | {"scenarios": False, "sizes": [], "repeats": 1}
    content |= {"learners": ["median", "path-network"], "curve_learners": [], "output": str(output)}
    content["paths"] = str(file.parent / "rows.jsonl")
    as_json, err = call("evaluate", "barrier", config(tmp_path, **content), "--json")
    assert "4 folds wanted, 2 kept from before" in err
    assert "2 of 2: median, repeat 1, fold 2: " in err
    assert set(json.loads(as_json)["predictions"][0]["predicted_eV"]) == {"median", "path-network"}
    # with other rows to learn from, nothing that was kept is taken
    other = config(tmp_path, **content | {"only_judged": [], "output": str(output)})
    _, err = call("evaluate", "barrier", other)
    assert "4 folds wanted, 0 kept from before" in err


def test_two_processes_find_the_same(tmp_path):
    table = write_table(path_table(), tmp_path / "rows.jsonl")
    content = {"paths": table, "folds": 2, "repeats": 1, "samples": 20, "learners": ["random-forest", "median"]}
    found = []
    for workers in (1, 2):
        file = config(tmp_path, **content, output=tmp_path / str(workers))
        as_json, _ = call("evaluate", "barrier", file, "--workers", workers, "--json")
        found.append(json.loads(as_json)["predictions"])
    for one, other in zip(*found, strict=True):
        assert one["predicted_eV"]["random-forest"] == pytest.approx(other["predicted_eV"]["random-forest"])
    assert not (tmp_path / "2" / "learning_curve.png").exists()


@pytest.mark.parametrize(
    ("verb", "change", "sentence"),
    [
        ("train", {"fold": 3}, "fold: unknown key; allowed here: paths, output, folds, members_per_fold, epochs"),
        ("train", {"epochs": 3}, "the model fast does not use epochs; leave that out"),
        ("train", {"model": "path-network", "only_judged": ["Li3N_1"]}, "path-network does not use only_judged; leave"),
        ("train", {"folds": 1}, "folds: input should be greater than or equal to 2 (given: 1)"),
        ("train", {"folds": 9}, "8 hosts cannot be dealt to 9 folds. Add paths or ask for fewer folds."),
        ("train", {"paths": "nowhere.jsonl"}, "nowhere.jsonl cannot be read: No such file or directory."),
        ("train", {"paths": "config.yaml"}, "holds no path that can be learned from (Line 1 of config.yaml is not"),
        ("train", {"dropout": 0.9}, "dropout: input should be less than 0.5"),
        ("train", {"output": "config.yaml"}, "cannot be written"),
        ("evaluate", {"repeats": 0}, "repeats: input should be greater than or equal to 1"),
        ("evaluate", {"sizes": [5, 5]}, "sizes: sizes must rise and be at least 2"),
        ("evaluate", {"sizes": [5, 20]}, "sizes: 20 training paths are too many, the folds leave "),
        ("evaluate", {"epochs": 3}, "epochs: unknown key; allowed here: paths, output, folds, learners, repeats"),
        ("evaluate", {"learners": ["oracle"]}, "there is no barrier learner called 'oracle'; allowed: path-network"),
        ("evaluate", {"learners": ["median", "median"]}, "median stands there twice"),
        ("evaluate", {"only_judged": ["nobody_1"]}, "rows.jsonl has no path called nobody_1."),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path, verb, change, sentence):
    table = write_table(path_table(), tmp_path / "rows.jsonl")
    out, err = call(verb, "barrier", config(tmp_path, **{"paths": table, "output": "out", **change}), code=2)
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_rows_that_teach_nothing_are_named(tmp_path):
    rows = path_table()[:2]
    table = [
        {**rows[0], "barrier_dft_eV": None},
        {**rows[0], "barrier_dft_eV": -0.2},
        {**rows[0], "barrier_mace_relax_eV": "none"},
        {**rows[0], "lattice": [[1]]},
        {**rows[0], "framework_species": ["Zz"] * len(rows[0]["framework_species"])},
    ]
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in table).encode()))
    from hopflow.learning.path_rows import read_labelled_rows

    kept, left_out = read_labelled_rows(file)
    assert kept == []
    assert [row["reason"] for row in left_out] == [*["unreadable_structure"] * 4, "unsupported_element"]
    for row, sentence in zip(left_out, ("no barrier_dft_eV", "-0.2", "'none'", "lattice", "Zz"), strict=True):
        assert sentence in row["error"]
    write_table([{**rows[0], "barrier_mace_relax_eV": float("nan")}, rows[1]], file)
    kept, left_out = read_labelled_rows(file)
    assert (len(kept), left_out, kept[0]["barrier_mace_relax_eV"]) == (2, [], None)


def test_defaults_and_examples():
    places = {"paths": Path("a"), "output": Path("b")}
    assert BarrierTraining(**places).training() == TrainingSettings()
    assert BarrierEvaluation(**places).settings() == BarrierEvaluationSettings()
    trained = read_config(EXAMPLES / "train_barrier.yaml", BarrierTraining, "training file")
    judged = read_config(EXAMPLES / "evaluate_barrier.yaml", BarrierEvaluation, "evaluation file")
    assert trained.training() == TrainingSettings()
    learners = ("fast", "fused", "geometry", "path-network", "random-forest", "gradient-boosting")
    wrong = ("LiRuO2_1", "RuO2_Li_1")
    assert judged.settings() == BarrierEvaluationSettings(learners=learners, only_judged=wrong)
    assert replace(trained.evidence(), citation="", licence="") == EvidenceTrainingSettings(
        only_judged=wrong, citation="", licence=""
    )
    assert "2508.06459" in trained.citation
    assert trained.paths == judged.paths
    assert trained.paths.is_absolute()
