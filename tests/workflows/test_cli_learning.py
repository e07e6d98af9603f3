"""Data set, training and comparison from the command line: interrupted, gone on with, and refused in a sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import call
from hopflow.learning import interstitial_dataset, interstitial_evaluation
from hopflow.learning.interstitial_ensembles import EnsembleSettings, load_interstitial_ensemble
from hopflow.learning.interstitial_evaluation import EvaluationSettings
from hopflow.learning.interstitial_prediction import checkpoint_info
from hopflow.learning.interstitial_storage import load_dataset
from hopflow.transport.errors import CandidateError
from hopflow.workflows.cli_learning import share_done, told
from hopflow.workflows.learning_configs import InterstitialEvaluation, InterstitialTraining, read_config
from hopflow.workflows.learning_intake import DrawnStructures
from interstitial_crystals import SPACING_A, crystals
from pymatgen.core import Structure

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def row(name: str, structure: Structure) -> str:
    content = {
        "material_id": name,
        "cell": list(structure.lattice.parameters),
        "species": [site.specie.symbol for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
    }
    return json.dumps(content)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All crystals, four of them in files of their own, and one broken line."""
    folder = tmp_path_factory.mktemp("structures")
    named = list(crystals().items())
    alone = []
    for (name, structure), suffix in zip(named[:4], (".cif", ".cif", ".vasp", ".json"), strict=True):
        alone.append(folder / f"{name}{suffix}")
        structure.to(str(alone[-1]), fmt="poscar" if suffix == ".vasp" else "")
    rows = folder / "rows.jsonl.gz"
    with gzip.open(rows, "wt") as stream:
        stream.write("\n".join([row(*each) for each in named[4:]] + ['{"material_id": "half']) + "\n")
    return [*alone, rows]


def options(folder: Path) -> list[Any]:
    return ["--output", folder, "--spacing", SPACING_A, "--shard-size", 5]


@pytest.fixture(scope="module")
def built(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A data set whose building was interrupted in its third shard, and what the second call said."""
    folder = tmp_path_factory.mktemp("built") / "deep" / "dataset"
    right, seen = interstitial_dataset.labelled_crystal, []

    def interrupted(name: str, *rest: Any) -> Any:
        seen.append(name)
        if len(seen) == 12:
            raise KeyboardInterrupt
        return right(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interstitial_dataset, "labelled_crystal", interrupted)
        out, err = call("dataset", "interstitial", *files, *options(folder), code=1)
    assert out == ""
    assert "Stopped." in err
    assert len(list(folder.glob("shard-*.npz"))) == 2
    return folder, *call("dataset", "interstitial", *files, *options(folder))


def test_an_interrupted_data_set_is_gone_on_with(built, files):
    folder, out, err = built
    assert [("kept from before" in line) for line in err.splitlines()] == [True, True, False, False, False, False]
    assert "27 of 27 done" in err
    assert "26 graphs, 26 with a barrier, of which 0 without a path below the energy ceiling" in out
    assert "without a graph: 1 unreadable_structure" in out
    dataset = load_dataset(folder)
    names = [crystal.material_id for crystal in dataset.crystals]
    assert sorted(names) == sorted(crystals())
    # The order is drawn: by SHA-256 of seed and name.
    drawn = sorted(crystals(), key=lambda name: hashlib.sha256(f"0 {name}".encode()).digest())
    assert names == drawn
    (failure,) = dataset.manifest["failures"]
    assert failure["material_id"] == "rows:23"
    assert "Line 23 of rows.jsonl.gz is not valid JSON" in failure["message"]


def test_the_data_set_is_that_of_the_crystals(built, files, tmp_path):
    whole = json.loads(call("dataset", "interstitial", *files, *options(tmp_path), "--workers", 2, "--json")[0])
    np.testing.assert_array_equal(load_dataset(tmp_path).labels(), load_dataset(built[0]).labels())
    assert (whole["crystals"], whole["labelled"], whole["complete"]) == (26, 26, True)
    assert whole["failures_by_reason"] == {"unreadable_structure": 1}
    assert whole["settings"]["bond_valence"]["spacing_A"] == SPACING_A
    assert whole["bytes"] == sum(file.stat().st_size for file in tmp_path.glob("shard-*.npz"))
    assert "failures" not in whole


def test_a_sample_is_the_beginning_of_the_drawn_order(files):
    everything = list(DrawnStructures(files, seed=2))
    assert len(everything) == len(DrawnStructures(files, seed=2)) == 27
    few = DrawnStructures(files, seed=2, limit=7)
    assert [name for name, _ in few] == [name for name, _ in everything[:7]]
    # Neither the order of the files nor what else there is decides.
    assert [name for name, _ in DrawnStructures(files[::-1], seed=2)] == [name for name, _ in everything]
    assert [name for name, _ in DrawnStructures(files, seed=3)] != [name for name, _ in everything]
    known = crystals()
    for name, found in everything:
        if name == "rows:23":
            assert isinstance(found, CandidateError)
        else:
            assert len(found) == len(known[name])
            assert found.lattice.parameters == pytest.approx(known[name].lattice.parameters, abs=1e-5)
            assert found.composition == known[name].composition


def test_what_cannot_be_read_costs_itself_alone(tmp_path):
    structure = crystals()["fluoride-0"]
    (tmp_path / "a.jsonl").write_text(f"{row('twice', structure)}\n\n[1]\n{row('twice', structure)}\n")
    # Names that cannot be compressed, so that half of the file holds about half of the lines.
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(400)]
    torn = gzip.compress("\n".join(row(name, structure) for name in names).encode())
    (tmp_path / "torn.jsonl.gz").write_bytes(torn[: len(torn) // 2])
    (tmp_path / "no.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "odd.txt").write_text("?")
    found = dict(DrawnStructures(sorted(tmp_path.iterdir())))
    good = {name for name, each in found.items() if isinstance(each, Structure)}
    assert {"twice", "twice-2"} < good
    assert 150 < len(good & set(names)) < 250
    bad = found.keys() - good
    assert {"a:3", "no", "empty", "odd.txt"} < bad
    assert "torn" in str(bad)
    assert "kind of file" in str(found["odd.txt"])
    assert "must be a JSON object" in str(found["a:3"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.cif"], "There is no file nowhere.cif"),
        (["."], "is a folder; name the files in it"),
        ([EXAMPLES / "demo" / "Li2O.cif", "--ion", "Xx"], "no mobile ion of the bond-valence table"),
        ([EXAMPLES / "demo" / "Li2O.cif", "--spacing", "0"], "spacing"),
    ],
)
def test_wrong_use_of_the_data_set_command(tmp_path, words, sentence):
    _, err = call("dataset", "interstitial", *words, "--output", tmp_path / "set", code=2)
    assert sentence in " ".join(err.split())
    assert not (tmp_path / "set").exists()


def test_a_folder_of_other_settings_is_refused(built, files):
    folder = built[0]
    _, err = call("dataset", "interstitial", *files, "--output", folder, code=2)
    assert err.endswith("holds a data set with another settings; choose another folder or remove it.\n")
    assert load_dataset(folder).manifest["complete"]


def test_a_data_set_of_nothing_is_a_failure(tmp_path):
    file = tmp_path / "broken.cif"
    file.write_text("data_nothing\n")
    out, err = call("dataset", "interstitial", file, "--output", tmp_path / "set", code=1)
    assert "0 graphs" in out
    assert "the data set is empty" in err


def config(folder: Path, **content: Any) -> Path:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({key: str(v) if isinstance(v, Path) else v for key, v in content.items()}))
    return file


def test_training_writes_the_checkpoint_its_card_and_its_metrics(built, tmp_path, monkeypatch):
    monkeypatch.setattr(interstitial_evaluation, "_LEAST_ANION", 3)
    file = config(tmp_path, dataset=built[0], output="new/trained", folds=2, epochs=1)
    out, err = call("train", "interstitial", file)
    output = tmp_path / "new" / "trained"
    assert "6 of 6: median on anion S" in err
    assert "member 2 of 2, epoch 1 of 1: loss" in err
    assert f"checkpoint: {output / 'interstitial_network.pt'}" in out
    assert f"model card: {output / 'interstitial_network.md'}" in out
    info = json.loads((output / "interstitial_network.json").read_text())
    lines = [line.split() for line in out.splitlines()]
    for name, values in info["metrics"].items():
        (line,) = [words for words in lines if words[0] == name.upper()]
        assert line[1:4] == ["26", f"{values['r2']:.3f}", f"{values['r2_log']:.3f}"]
    assert len(load_interstitial_ensemble(output / "interstitial_network.pt").networks) == 2
    assert info["sha256"] in (output / "interstitial_network.md").read_text()
    # A second call has nothing left to train and says the same.
    before = {member: member.stat().st_mtime_ns for member in output.glob("member-*.pt")}
    again, err = call("train", "interstitial", file)
    assert again == out
    assert "epoch" not in err
    assert len(before) == 2
    assert {member: member.stat().st_mtime_ns for member in before} == before


def test_a_comparison_leaves_its_metrics_table_and_figure(built, tmp_path):
    content = {
        "dataset": built[0],
        "output": "compared",
        "networks": ["median", "network-barrier", "percolating"],
        "splits": ["random"],
        "repeats": 2,
        "epochs": 1,
    }
    out, err = call("evaluate", "interstitial", config(tmp_path, **content))
    output = tmp_path / "compared"
    assert "6 of 6: percolating on random 1" in err
    metrics = json.loads((output / "metrics.json").read_text())
    assert [(line["split"], line["network"], line["repeats"]) for line in metrics["rows"]] == [
        ("random", name, 2) for name in content["networks"]
    ]
    assert metrics["crystals"] == 26
    assert metrics["settings"]["repeats"] == 2
    results = [json.loads(file.read_text()) for file in sorted((output / "results").glob("random-*-median.json"))]
    mae_eV = [result["scores"]["mae_eV"] for result in results]
    assert metrics["rows"][0]["mae_eV"] == pytest.approx([np.mean(mae_eV), np.std(mae_eV)])
    table = (output / "table.md").read_text().splitlines()
    assert len(table) == 5
    assert table[2].startswith("| random | median | 2 |")
    (line,) = [line for line in out.splitlines() if line.startswith("random") and "median" in line]
    assert f"{np.mean(mae_eV):.3f} ± {np.std(mae_eV):.3f}" in line
    assert (output / "parity.png").read_bytes().startswith(b"\x89PNG")
    # Gone on with: nothing is computed, and a program gets what the file holds.
    as_json, err = call("evaluate", "interstitial", config(tmp_path, **content), "--json")
    assert "6 results wanted, 6 kept from before" in err
    assert json.loads(as_json) == metrics == json.loads((output / "metrics.json").read_text())


GOOD = {
    "train": {"dataset": "there", "output": "out"},
    "evaluate": {"dataset": "there", "output": "out", "networks": ["median"], "splits": ["random"]},
}


@pytest.mark.parametrize(
    ("verb", "change", "sentence"),
    [
        ("train", {"fold": 3}, "line 2: fold: unknown key; allowed here: dataset, output, network, folds, epochs"),
        ("train", {"network": "transformer"}, "network: there is no network called 'transformer'; allowed: shi-gcn"),
        ("train", {"network": "cgcnn"}, "cgcnn knows no uncertainty and is for comparison"),
        ("train", {"folds": 1}, "folds: input should be greater than or equal to 2 (given: 1)"),
        ("train", {"epochs": "many"}, "epochs: input should be a valid integer"),
        ("train", {"dataset": None}, "dataset: "),
        ("train", {"dataset": "nowhere"}, "nowhere holds no data set; build it first."),
        ("train", {"folds": 14}, "holds 13 chemical systems with barriers, too few for 14 parts"),
        ("train", {}, "No anion but oxygen is that of 40 crystals or more"),
        ("train", {"output": "config.yaml"}, "cannot be written"),
        ("evaluate", {"networks": []}, "networks: list should have at least 1 item"),
        ("evaluate", {"networks": ["mean"]}, "networks: there is no network called 'mean'; allowed: "),
        ("evaluate", {"networks": ["median", "median"]}, "networks: median stands there twice"),
        ("evaluate", {"splits": ["formula"]}, "splits: there is no split called 'formula'; allowed: random"),
        ("evaluate", {"splits": ["prototype"]}, "holds 6 prototypes with barriers, too few for 10 parts"),
        ("evaluate", {"splits": ["anion"]}, "No anion but oxygen is that of 40 crystals or more"),
        ("evaluate", {"members": 0}, "members: input should be greater than or equal to 1"),
        ("evaluate", {"seed": -1}, "seed: input should be greater than or equal to 0"),
        ("evaluate", {"threshold_ev": 0.4}, "threshold_ev: unknown key"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(built, tmp_path, verb, change, sentence):
    content = {**GOOD[verb], "dataset": built[0], **change}
    out, err = call(verb, "interstitial", config(tmp_path, **content), code=2)
    assert out == ""
    assert sentence in err
    assert err.startswith("hopflow: ")
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read: No such file or directory."),
        ("networks: [", "is not valid YAML"),
        ("median", "is no evaluation file; it needs the keys dataset, output, networks"),
        ("output: here", "dataset: this key is needed"),
        (b"\xff\xfe\x00", "cannot be read: it is not text."),
    ],
)
def test_what_is_no_file_of_this_kind(tmp_path, text, sentence):
    file = tmp_path / "file.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    _, err = call("evaluate", "interstitial", file, code=2)
    assert sentence in err


def test_an_unfinished_data_set_is_refused(built, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    manifest = json.loads((built[0] / "manifest.json").read_text())
    (unfinished / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    file = config(tmp_path, **{**GOOD["evaluate"], "dataset": unfinished})
    _, err = call("evaluate", "interstitial", file, code=2)
    assert "is not complete; run the command that builds it again." in err
    # The manifest says that it is whole, but its files are not there.
    (unfinished / "manifest.json").write_text(json.dumps(manifest))
    assert "is missing or damaged" in call("evaluate", "interstitial", file, code=2)[1]


def test_defaults_and_examples(tmp_path):
    places = {"dataset": Path("a"), "output": Path("b")}
    assert InterstitialTraining(**places).settings() == EnsembleSettings()
    assert InterstitialEvaluation(**places, networks=["median"]).settings() == EvaluationSettings(("median",))
    training = read_config(EXAMPLES / "train_interstitial.yaml", InterstitialTraining, "training file")
    comparison = read_config(EXAMPLES / "evaluate_interstitial.yaml", InterstitialEvaluation, "evaluation file")
    # The example is what the shipped network was trained with.
    assert asdict(training.settings()) == checkpoint_info()["training"]
    assert comparison.dataset == training.dataset
    assert training.dataset.resolve() == EXAMPLES.parent / "build" / "interstitial_dataset"
    assert "percolating-surfaces" in comparison.networks


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("shard-00003.npz: 1 crystals, 0 labelled, 1 failed; 150 of 600 done, 3 min left", 0.25),
        ("3 of 12: percolating on random 0: R2 0.93, MAE 0.05 eV, 60 s", 0.25),
        ("member 2 of 5, epoch 3 of 20: loss 0.5", (1 + 3 / 20) / 5),
        ("member 5 of 5, epoch 20 of 20: loss 0.5", 1.0),
        ("12 results wanted, 0 kept from before", None),
        ("0 of 0: nothing", None),
    ],
)
def test_how_much_is_done(line, share):
    assert share_done(line) == (share if share is None else pytest.approx(share))


def test_a_terminal_has_a_bar(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with redirect_stderr(stream), told("training") as say:
        say("member 1 of 2, epoch 1 of 2: loss 0.5")
        say("a line that does not say how far it is")
    assert "25%" in stream.getvalue()
    assert "does not say" in stream.getvalue()
