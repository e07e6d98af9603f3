"""The path network from the command line: trained and judged, interrupted, gone on with, refused in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import call
from hopflow.learning import barrier_evaluation, training
from hopflow.learning.barrier_evaluation import BarrierEvaluationSettings
from hopflow.learning.ensembles import load_ensemble
from hopflow.learning.training import TrainingSettings, train_path_network
from hopflow.workflows.learning_configs import BarrierEvaluation, BarrierTraining, read_config
from path_tables import path_table, write_table

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {"folds": 2, "members_per_fold": 1, "epochs": 2, "batch_size": 8, "hidden": 8, "layers": 1}


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


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """An evaluation that was interrupted in its fourth fold, the second call's output, and its file."""
    folder = tmp_path_factory.mktemp("evaluated")
    table = write_table(path_table(), folder / "rows.jsonl")
    content = {**SMALL, "epochs": 1, "repeats": 2, "sizes": [6], "samples": 40}
    file = config(folder, paths=table, output="judged", **content)
    right, done = barrier_evaluation.train_member, []

    def interrupted(*words: Any, **named: Any) -> Any:
        done.append(len(words[0]))
        if len(done) == 4:
            raise KeyboardInterrupt
        return right(*words, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barrier_evaluation, "train_member", interrupted)
        _, err = call("evaluate", "barrier", file, code=1)
    assert "3 of 8: repeat 2, fold 1: " in err
    assert len(list((folder / "judged" / "results").iterdir())) == 3
    out, err = call("evaluate", "barrier", file)
    assert "8 folds wanted, 3 kept from before" in err
    assert "with 6 training paths: 6 paths learned" in err
    return folder / "judged", file, out


def test_an_evaluation_leaves_metrics_table_and_figures(evaluated):
    output, file, out = evaluated
    metrics = json.loads((output / "metrics.json").read_text())
    found = {(entry["predictor"], entry["rows_of"]): entry for entry in metrics["table"]}
    assert set(found) == {
        *((name, rows_of) for name in ("network", "median") for rows_of in ("all", "usual", "usual_with_mace")),
        ("mace_neb", "usual_with_mace"),
        ("mean_of_both", "usual_with_mace"),
    }
    # by hand: mean over the repeats of the error on the rows at or below 4 eV
    rows = metrics["predictions"]
    usual = [row for row in rows if row["true_eV"] <= 4.0]
    by_hand = np.mean([[abs(each - row["true_eV"]) for each in row["predicted_eV"]] for row in usual])
    entry = found["network", "usual"]
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
    assert [row["path_id"] for row in metrics["rows_above"]] == ["LiFePO4_3"]
    inside = [
        abs(predicted - row["true_eV"]) <= 0.6744897501960817 * sigma
        for row in usual
        for predicted, sigma in zip(row["predicted_eV"], row["sigma_eV"], strict=True)
    ]
    assert metrics["coverage"]["eV"]["0.5"] == pytest.approx(np.mean(inside))
    assert [entry["training_paths"] for entry in metrics["learning_curve"]] == [6, pytest.approx(10.5)]
    table = (output / "table.md").read_text()
    assert f"| network | usual | {len(usual)} | {by_hand:.3f} ({low:.3f} to {high:.3f}) |" in table
    assert "| training paths | mae_eV |" in table
    for name in ("parity.png", "learning_curve.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
        assert f"figure: {output / name}" in out
    # gone on with: nothing is computed, and a program gets what the file holds
    as_json, err = call("evaluate", "barrier", file, "--json")
    assert "8 folds wanted, 8 kept from before" in err
    assert json.loads(as_json) == metrics


def test_a_repeat_is_the_cross_validation_of_the_training(evaluated):
    output, file, _ = evaluated
    chosen = read_config(file, BarrierEvaluation, "evaluation file")
    rows = path_table()
    metrics = json.loads((output / "metrics.json").read_text())
    _, validation = train_path_network(rows, chosen.training(), seed=1)
    np.testing.assert_allclose([row["predicted_eV"][1] for row in metrics["predictions"]], validation.predicted_eV)


def test_two_processes_find_the_same(evaluated, tmp_path):
    output, file, _ = evaluated
    content = yaml.safe_load(file.read_text())
    content |= {"output": str(tmp_path / "again"), "sizes": [], "repeats": 1}
    as_json, _ = call("evaluate", "barrier", config(tmp_path, **content), "--workers", 2, "--json")
    before = json.loads((output / "metrics.json").read_text())["predictions"]
    after = json.loads(as_json)["predictions"]
    np.testing.assert_allclose(
        [row["predicted_eV"][0] for row in after], [row["predicted_eV"][0] for row in before], rtol=1e-5
    )
    assert not (tmp_path / "again" / "learning_curve.png").exists()


@pytest.mark.parametrize(
    ("verb", "change", "sentence"),
    [
        ("train", {"fold": 3}, "fold: unknown key; allowed here: paths, output, folds, members_per_fold, epochs"),
        ("train", {"folds": 1}, "folds: input should be greater than or equal to 2 (given: 1)"),
        ("train", {"folds": 9}, "8 hosts cannot be dealt to 9 folds. Add paths or ask for fewer folds."),
        ("train", {"paths": "nowhere.jsonl"}, "nowhere.jsonl cannot be read: No such file or directory."),
        ("train", {"paths": "config.yaml"}, "holds no path that can be learned from (Line 1 of config.yaml is not"),
        ("train", {"dropout": 0.9}, "dropout: input should be less than 0.5"),
        ("train", {"output": "config.yaml"}, "cannot be written"),
        ("evaluate", {"repeats": 0}, "repeats: input should be greater than or equal to 1"),
        ("evaluate", {"sizes": [5, 5]}, "sizes: sizes must rise and be at least 2"),
        ("evaluate", {"sizes": [5, 20]}, "sizes: 20 training paths are too many, the folds leave "),
        ("evaluate", {"learning_rate": 0}, "learning_rate: input should be greater than 0"),
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
    assert trained.training() == judged.training() == TrainingSettings()
    assert trained.paths == judged.paths
    assert trained.paths.is_absolute()
