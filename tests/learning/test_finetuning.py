"""Fine-tuning: which frames are taken, how they are split, what errors mean, and a real training of a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from hopflow.learning.finetuned import load_mace
from hopflow.learning.finetuning import Foundation, fine_tune, foundation_energies_eV
from hopflow.learning.finetuning_data import Frame, FrameKeys, LeftOut, ReadingSettings, files_of, read_frames
from hopflow.learning.finetuning_evaluation import Answers, energy_offsets_eV, frame_errors
from hopflow.learning.finetuning_splits import SPLITS, FrameSet, split_frames, write_frames
from hopflow.learning.finetuning_training import FineTuningSettings, MaceTraining, TrainingFiles
from hopflow.potentials.mace import MacePotential
from hopflow.potentials.registry import load_potential
from hopflow.transport.energies import Potential
from hopflow.transport.errors import HopflowError
from hopflow.workflows.cli_finetune import model_potential
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_frames import MATERIALS, OFFSETS_EV, teacher_frames, write_teacher_frames, write_tiny_mace


def frame(material: str, energy_eV: float = 0.0, path: str | None = None, split: Any = None) -> Frame:
    atoms = bulk("LiCl", "rocksalt", a=5.1)
    return Frame(atoms, energy_eV, np.zeros((2, 3)), None, material, path, split)


def read_all(*files: Path, **changes: Any) -> tuple[list[Frame], LeftOut]:
    return read_frames([(file, None) for file in files], ReadingSettings(**changes))


def test_frames_are_read_as_they_were_written(tmp_path):
    source = teacher_frames()
    write(tmp_path / "a.extxyz", source, format="extxyz")
    frames, left_out = read_all(tmp_path / "a.extxyz")
    assert not left_out.counts
    assert len(frames) == len(source)
    for found, atoms in zip(frames, source, strict=True):
        assert found.energy_eV == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert found.forces_eV_per_A == pytest.approx(atoms.get_forces(), abs=1e-6)
        assert found.stress_eV_per_A3 == pytest.approx(atoms.get_stress(), abs=1e-6)
        assert found.material == atoms.info["material_id"]
        assert found.path == atoms.info.get("path_id")
    # what MACE is given holds the same
    write_frames(frames, tmp_path / "b.xyz.gz")
    keys = FrameKeys("REF_energy", "REF_forces", "REF_stress")
    again, _ = read_all(tmp_path / "b.xyz.gz", keys=keys)
    for one, other in zip(frames, again, strict=True):
        assert other.energy_eV == pytest.approx(one.energy_eV, abs=1e-8)
        assert other.forces_eV_per_A == pytest.approx(one.forces_eV_per_A, abs=1e-6)
        assert other.stress_eV_per_A3 == pytest.approx(one.stress_eV_per_A3, abs=1e-6)
        assert (other.material, other.path) == (one.material, one.path)


def test_a_frame_without_a_name_is_called_after_its_formula(tmp_path):
    crystal = bulk("LiCl", "rocksalt", a=5.1) * (2, 1, 1)
    crystal.calc = SinglePointCalculator(crystal, energy=1.0, forces=np.zeros((4, 3)))
    write(tmp_path / "a.xyz", crystal, format="extxyz")
    (found,), _ = read_all(tmp_path / "a.xyz")
    assert found.material == "ClLi"
    assert found.stress_eV_per_A3 is None


def spoiled(how: str) -> Atoms:
    crystal = bulk("NaCl" if how == "unsupported_element" else "LiCl", "rocksalt", a=5.1)
    forces = np.zeros((2, 3))
    results = {"energy": -1.0, "forces": forces}
    if how == "no_energy":
        del results["energy"]
    if how == "no_forces":
        del results["forces"]
    if how == "not_finite":
        results["energy"] = float("nan")
    if how == "large_forces":
        forces[1, 2] = 50.0
    if how == "unknown_split":
        crystal.info["split"] = "holdout"
    crystal.calc = SinglePointCalculator(crystal, **results)
    crystal.info["material_id"] = "good" if how == "good" else "bad"
    return crystal


REFUSED = ("no_energy", "no_forces", "not_finite", "large_forces", "unsupported_element", "unknown_split")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(("good", *REFUSED)), min_size=1, max_size=12))
def test_a_bad_frame_costs_no_other(tmp_path_factory, kinds):
    file = tmp_path_factory.mktemp("frames") / "a.extxyz"
    write(file, [spoiled(kind) for kind in kinds], format="extxyz")
    frames, left_out = read_frames([(file, None)], elements=frozenset({"Li", "Cl"}))
    assert len(frames) == kinds.count("good")
    assert all(each.material == "good" for each in frames)
    assert left_out.counts == {kind: kinds.count(kind) for kind in set(kinds) - {"good"}}
    for reason, examples in left_out.examples.items():
        number = kinds.index(reason) + 1
        assert examples[0].startswith(f"a.extxyz, frame {number}: The f" if reason != "large_forces" else "a.extxyz")


def test_the_foreign_element_is_named(tmp_path):
    write(tmp_path / "a.xyz", spoiled("unsupported_element"), format="extxyz")
    _, left_out = read_frames([(tmp_path / "a.xyz", None)], elements=frozenset({"Li", "Cl"}))
    assert "was not trained on Na." in left_out.examples["unsupported_element"][0]
    assert left_out.sentence() == "1 frames left out: 1 unsupported_element"


def test_a_file_that_breaks_off_costs_other_files_nothing(tmp_path):
    whole = write_teacher_frames(tmp_path / "b.xyz")
    text = whole.read_text().splitlines(keepends=True)
    (tmp_path / "a.xyz").write_text("".join(text[:10] + text[10:15]))
    frames, left_out = read_frames(files_of(tmp_path))
    assert len(frames) == 1 + len(teacher_frames())
    assert left_out.counts == {"unreadable": 1}


@pytest.mark.parametrize(("most", "seed"), [(1, 0), (3, 1), (6, 2), (9, 0)])
def test_the_lot_takes_as_many_as_it_may_and_always_the_same(tmp_path, most, seed):
    file = write_teacher_frames(tmp_path / "a.xyz")
    everything, _ = read_all(file)
    drawn, _ = read_all(file, frames_per_material=most, seed=seed)
    for material in MATERIALS:
        there = sum(each.material == material for each in everything)
        assert sum(each.material == material for each in drawn) == min(most, there)
    again, _ = read_all(file, frames_per_material=most, seed=seed)
    assert [each.energy_eV for each in again] == [each.energy_eV for each in drawn]


def shared_materials(data: FrameSet) -> set[str]:
    sets = [set(data.materials(split)) for split in SPLITS]
    return (sets[0] & sets[1]) | (sets[0] & sets[2]) | (sets[1] & sets[2])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=60),
    st.floats(0.01, 0.4),
    st.floats(0.01, 0.4),
    st.integers(0, 1000),
)
def test_no_material_stands_in_two_splits(numbers, validation, test, seed):
    frames = [frame(f"m{number}", index) for index, number in enumerate(numbers)]
    if len(set(numbers)) < 3:
        with pytest.raises(HopflowError, match="at least three are needed"):
            split_frames(frames, LeftOut(), validation, test, seed)
        return
    data = split_frames(frames, LeftOut(), validation, test, seed)
    assert not shared_materials(data)
    assert all(data.splits[split] for split in SPLITS)
    found = sorted(each.energy_eV for split in SPLITS for each in data.splits[split])
    assert found == list(range(len(numbers)))


def test_splits_that_the_data_name(tmp_path):
    for name, materials in {"train": ["LiCl", "NaCl"], "val": ["LiO"], "test": ["NaO"]}.items():
        chosen = [each for each in teacher_frames() if each.info["material_id"] in materials]
        write(tmp_path / f"MPLiTrj_{name}.xyz", chosen, format="extxyz")
    frames, left_out = read_frames(files_of(tmp_path))
    data = split_frames(frames, left_out)
    assert [data.materials(split) for split in SPLITS] == [["LiCl", "NaCl"], ["LiO"], ["NaO"]]
    assert data.rule == "as the data name them"
    assert "by lot" in split_frames(frames, left_out, deal=True).rule
    mixed = [frame("a", split="train"), frame("a", split="test"), frame("b", split="validation")]
    with pytest.raises(HopflowError, match=r"1 materials are in more than one split \(a\); set `splits: dealt`"):
        split_frames(mixed, LeftOut())
    with pytest.raises(HopflowError, match="1 of 2 frames name no split"):
        split_frames([frame("a", split="train"), frame("b")], LeftOut())
    with pytest.raises(HopflowError, match="no frame for validation and test"):
        split_frames([frame("a", split="train")], LeftOut())
    with pytest.raises(HopflowError, match="No frame can be learned from"):
        split_frames([], LeftOut())


def test_errors_are_what_they_say():
    frames = [frame("a", 1.0, "p"), frame("a", 2.0, "p"), frame("a", 4.0, "p"), frame("b", 7.0), frame("b", 7.5)]
    # another zero of energy for each material is no error
    shifted = Answers(np.array([11.0, 12.0, 14.0, -3.0, -2.5]), [np.zeros((2, 3))] * 5)
    errors = frame_errors(frames, shifted)
    assert errors["energy_mae_meV_per_atom"] == pytest.approx(0.0, abs=1e-9)
    assert errors["force_mae_meV_per_A"] == 0.0
    assert errors["barrier_mae_meV"] == pytest.approx(0.0, abs=1e-9)
    assert errors["uncorrected_energy_mae_meV_per_atom"] == pytest.approx(1000 * (3 * 5 + 2 * 5) / 5)
    forces = np.array([[0.3, 0.0, 0.0], [0.0, -0.1, 0.0]])
    wrong = Answers(np.array([1.0, 2.0, 5.0, 7.0, 7.5]), [forces] * 5)
    errors = frame_errors(frames, wrong)
    assert errors["barriers"] == [{"path_id": "p", "material": "a", "reference_eV": 3.0, "found_eV": 4.0}]
    assert errors["barrier_mae_meV"] == pytest.approx(1000.0)
    assert errors["energy_mae_meV_per_atom"] == pytest.approx(500 * (1 / 3 + 1 / 3 + 2 / 3) / 5)
    assert errors["force_mae_meV_per_A"] == pytest.approx(1000 * 0.4 / 6)
    assert errors["force_rmse_meV_per_A"] == pytest.approx(1000 * np.sqrt(0.1 / 6))


def test_offsets_of_elements_are_found(tmp_path):
    frames, _ = read_all(write_teacher_frames(tmp_path / "a.xyz"))
    without = np.array(
        [each.energy_eV - sum(OFFSETS_EV[s] for s in each.atoms.get_chemical_symbols()) for each in frames]
    )
    found = energy_offsets_eV(frames, Answers(without, []))
    assert found == pytest.approx(OFFSETS_EV, abs=1e-3)


SETTINGS = FineTuningSettings(
    epochs=3, learning_rate=0.02, against_forgetting="none", average_decay=0.0, batch_size=5, energy_weight=10.0
)


@pytest.fixture(scope="module")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Foundation:
    return Foundation("tiny", write_tiny_mace(tmp_path_factory.mktemp("tiny") / "tiny.model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FrameSet:
    frames, left_out = read_all(write_teacher_frames(tmp_path_factory.mktemp("data") / "a.xyz"))
    return split_frames(frames, left_out)


class Tuning:
    """A fine-tuning of the tiny model, and the lines that it told."""

    def __init__(self, data: FrameSet, foundation: Foundation, output: Path) -> None:
        self.data, self.foundation, self.output = data, foundation, output
        self.lines: list[str] = []
        self.judged: list[Path] = []

    def load(self, file: Path) -> MacePotential:
        if file.parent.name == "judged":
            self.judged.append(file)
        return model_potential(file, self.foundation, "cpu")

    def run(self, chosen: FineTuningSettings = SETTINGS, stop_at: str = "never", **more: Any) -> dict[str, Any]:
        self.lines.clear()

        def say(line: str) -> None:
            self.lines.append(line)
            if line.startswith(stop_at):
                raise KeyboardInterrupt

        return fine_tune(self.data, self.foundation, chosen, self.load, self.output, say=say, **more)

    def epochs(self) -> list[str]:
        return [line.split(":")[0] for line in self.lines if line.startswith("epoch")]


@pytest.fixture(scope="module")
def tuned(data: FrameSet, foundation: Foundation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuning, Any, Any]:
    """Interrupted after its first epoch, and gone on with."""
    tuning = Tuning(data, foundation, tmp_path_factory.mktemp("tuned"))
    with pytest.raises(KeyboardInterrupt):
        tuning.run(stop_at="epoch 1 of 3")
    assert not (tuning.output / "finetuned.model").exists()
    return tuning, tuning.epochs(), tuning.run()


def test_an_interrupted_training_repeats_no_finished_epoch(tuned):
    tuning, first, document = tuned
    told = tuning.epochs()
    assert first == ["epoch 1 of 3"]
    # the process may have finished more of them before it was ended
    assert told in (["epoch 2 of 3", "epoch 3 of 3"], ["epoch 3 of 3"], [])
    assert [each["epoch"] for each in document["epochs"]] == [1, 2, 3]
    # evaluations of before were kept as well
    assert not any("frames by tiny" in line for line in tuning.lines)
    again = tuning.run()
    assert tuning.lines == []
    assert again == document


def test_the_model_learns(tuned):
    _, _, document = tuned
    before, after = document["before"]["train"], document["after"]["train"]
    for error in ("energy_mae_meV_per_atom", "force_mae_meV_per_A", "barrier_mae_meV"):
        assert after[error] < 0.97 * before[error]
    # another zero of energy is taken up by the reference energies
    assert after["uncorrected_energy_mae_meV_per_atom"] < 0.05 * before["uncorrected_energy_mae_meV_per_atom"]
    left = [each["share_of_errors_left"] for each in document["epochs"]]
    assert document["chosen_epoch"] == 1 + int(np.argmin(left))


def test_what_is_left_of_the_errors_is_what_the_judge_says(tuned):
    tuning, _, document = tuned
    before, after = document["before"]["validation"], document["after"]["validation"]
    names = ("energy_mae_meV_per_atom", "force_mae_meV_per_A", "barrier_mae_meV")
    share = np.mean([after[name] / before[name] for name in names])
    assert len({each["share_of_errors_left"] for each in document["epochs"]}) == len(document["epochs"])
    # the command keeps the models that it has loaded, by their files
    assert len(set(tuning.judged)) == len(tuning.judged) == len(document["epochs"])
    assert not any(file.exists() for file in tuning.judged)
    chosen = document["epochs"][document["chosen_epoch"] - 1]
    assert chosen["share_of_errors_left"] == pytest.approx(share, rel=1e-4)


def test_metrics_and_card_say_what_was_done(tuned):
    tuning, _, document = tuned
    assert json.loads((tuning.output / "metrics.json").read_text()) == document
    card = (tuning.output / "finetuned.md").read_text()
    assert document["sha256"] in card
    assert document["potential"] in card
    for split in SPLITS:
        materials = document["data"]["splits"][split]["materials"]
        assert materials == tuning.data.materials(split)
        assert f"| {split} | {len(tuning.data.splits[split])} | {', '.join(materials)} |" in card
    assert document["settings"]["learning_rate"] == 0.02
    assert document["before"]["test"]["paths"] == len(tuning.data.materials("test"))


def test_the_model_is_a_potential_in_every_way(tuned):
    tuning, _, document = tuned
    images = [each.atoms for each in tuning.data.splits["test"]]
    fused = tuning.load(tuning.output / "finetuned.model")
    named = load_potential(document["potential"])
    assert isinstance(named, Potential)
    for potential in (fused, named):
        energies, forces = potential.energies_and_forces(images)
        expected = fused.energies_and_forces(images)
        assert energies == pytest.approx(expected[0], abs=1e-8)
        assert np.concatenate(forces) == pytest.approx(np.concatenate(expected[1]), abs=1e-8)
    barriers = {each["path_id"]: each["found_eV"] for each in document["after"]["test"]["barriers"]}
    path = next(iter(barriers))
    members = [number for number, each in enumerate(tuning.data.splits["test"]) if each.path == path]
    assert np.ptp(energies[members]) == pytest.approx(barriers[path], abs=1e-6)


def test_reference_energies_are_fitted_on_the_training_set(tuned):
    tuning, _, document = tuned
    tuned_eV = foundation_energies_eV(tuning.output / "finetuned.model")
    before_eV = foundation_energies_eV(tuning.foundation.file)
    offsets = document["energy_offsets_eV_per_atom"]
    for number, symbol in ((3, "Li"), (8, "O"), (11, "Na"), (17, "Cl")):
        assert tuned_eV[number] - before_eV[number] == pytest.approx(offsets.get(symbol, 0.0), abs=1e-5)


def test_another_fine_tuning_is_refused_in_the_same_folder(tuned):
    tuning, _, _ = tuned
    with pytest.raises(HopflowError, match="holds a fine-tuning with other epochs, learning_rate; choose another"):
        tuning.run(replace(SETTINGS, epochs=5, learning_rate=0.01))


def test_replay_leaves_a_plain_model(data, foundation, tmp_path):
    tuning = Tuning(data, foundation, tmp_path)
    chosen = replace(SETTINGS, against_forgetting="replay", epochs=1)
    with pytest.raises(HopflowError, match="Replay needs frames"):
        tuning.run(chosen)
    document = tuning.run(chosen, replay=data.splits["validation"] + data.splits["test"])
    replayed = read(tmp_path / "training" / "replay.xyz", ":")
    assert document["data"]["replayed_frames"] == len(replayed)
    answers = tuning.load(foundation.file).energies(replayed)
    assert [each.info["REF_energy"] for each in replayed] == pytest.approx(answers, abs=1e-6)
    two_heads = load_mace(tmp_path / "training" / "last_epoch.model")
    assert two_heads.heads == ["pt_head", "Default"]
    assert load_mace(tmp_path / "finetuned.model").heads == ["Default"]
    from mace.calculators import MACECalculator

    images = [each.atoms for each in data.splits["train"][:3]]
    plain = tuning.load(tmp_path / "finetuned.model").energies(images)
    calculator = MACECalculator(models=[two_heads], head="Default", default_dtype="float64")
    for image, energy in zip(images, plain, strict=True):
        calculator.calculate(image)
        assert energy == pytest.approx(calculator.results["energy"], abs=1e-5)


def training_with(folder: Path, losses: list[float], **changes: Any) -> MaceTraining:
    """A training as it lies there after so many epochs."""
    files = TrainingFiles(folder / "f", folder / "t", folder / "v", folder / "e", None, 10, True)
    training = MaceTraining(folder, files, replace(SETTINGS, **changes))
    training.results.parent.mkdir(parents=True)
    training.checkpoints.mkdir()
    with training.results.open("w") as stream:
        for epoch, loss in enumerate(losses):
            opt = {"loss": 1.0, "time": 2.0, "mode": "opt", "epoch": epoch}
            errors = {"mae_e_per_atom": 0.001, "mae_f": 0.02, "time": 1.0}
            valid = {"loss": loss, **errors, "mode": "eval", "epoch": epoch, "head": "Default"}
            stream.write(
                f"{json.dumps(opt)}\n{json.dumps({**valid, 'head': 'pt_head', 'loss': 0.0})}\n{json.dumps(valid)}\n"
            )
            torch.save(torch.tensor([epoch]), training.checkpoint(epoch))
        stream.write('{"loss": 0.1, "mo')
    return training


def test_patience_is_counted_from_the_best_epoch(tmp_path):
    training = training_with(tmp_path, [3.0, 1.0, 2.0, 2.0], epochs=9, patience=2)
    assert training.best_epoch() == 1
    assert training.ended()
    assert training.history()[3].seconds == 3.0
    assert training.history()[3].force_mae_meV_per_A == pytest.approx(20.0)
    assert not training_with(tmp_path / "other", [3.0, 1.0, 2.0, 2.0], epochs=9, patience=3).ended()


def test_the_judge_decides_where_there_is_one(tmp_path):
    training = training_with(tmp_path, [3.0, 2.0, 1.0], epochs=9, patience=1)
    training.judge = {0: 0.9, 1: 0.5, 2: 0.7}.__getitem__
    training.checkpoint = lambda epoch: epoch  # type: ignore[assignment, method-assign, return-value]
    for epoch in range(2):
        training._judge(epoch)
    # as long as an epoch was not judged, the loss decides
    assert training.best_epoch() == 2
    training._judge(2)
    assert training.best_epoch() == 1
    assert training.ended()
    training._forget_from(2)
    assert training.scores() == {0: 0.9, 1: 0.5}


def test_the_last_epoch_is_waited_for_though_its_errors_are_noted(tmp_path):
    training = training_with(tmp_path, [3.0, 2.0, 1.0], epochs=3)
    training.checkpoint(2).write_bytes(b"half of a fi")
    told: list[str] = []
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:

        def write_checkpoint() -> None:
            torch.save(torch.tensor([2]), training.checkpoint(2))
            process.communicate()

        timer = threading.Timer(1.0, write_checkpoint)
        timer.start()
        assert training._follow(process, 0, told.append)
        timer.join()
    assert [line.split(":")[0] for line in told] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]


def test_only_whole_checkpoints_are_gone_on_from(tmp_path):
    training = training_with(tmp_path, [3.0, 2.0, 1.0], epochs=9)
    training.checkpoint(2).write_bytes(b"half of a fi")
    assert training._prepare_restart() == 2
    assert sorted(training.history()) == [0, 1]
    # what MACE starts from is called after the epoch that comes; it is no result
    assert torch.load(training.checkpoint(2)) == torch.tensor([1])
    assert training._prepare_restart() == 2
    assert sorted(training._checkpoints()) == [0, 1, 2]
    for file in training.checkpoints.iterdir():
        file.unlink()
    assert training._prepare_restart() == 0
    assert training.history() == {}


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path):
    training = training_with(tmp_path, [3.0, 1.0, 2.0, 2.0, 2.5], epochs=9)
    training._prune()
    assert sorted(training._checkpoints()) == [1, 3, 4]


def test_arguments_of_the_entry_point(tmp_path):
    files = TrainingFiles(tmp_path / "f", tmp_path / "t", tmp_path / "v", tmp_path / "e", None, 3, False)
    chosen = FineTuningSettings(frozen="products", batch_size=8, epochs=11)
    given = MaceTraining(tmp_path, files, chosen).arguments(11)
    assert "--freeze=6" in given
    assert "--batch_size=3" in given
    assert "--loss=weighted" in given
    assert "--ema" in given
    assert "--multiheads_finetuning=False" in given
    assert f"--lr_scheduler_gamma={0.1**0.1}" in given
    assert "--loss=stress" in MaceTraining(tmp_path, replace(files, with_stress=True), chosen).arguments(11)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.model").write_text("nothing")
    with pytest.raises(HopflowError, match="cannot be read as a model"):
        load_mace(tmp_path / "a.model")
    torch.save({"weights": 1}, tmp_path / "b.model")
    with pytest.raises(HopflowError, match="does not hold a MACE model"):
        load_mace(tmp_path / "b.model")
