"""`hopflow finetune` from the command line: what it prints and writes, and the sentences that refuse a wrong file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.io import read
from command_line import call
from hopflow.learning.finetuning_training import FineTuningSettings
from hopflow.potentials.registry import load_potential
from hopflow.transport.errors import HopflowError
from hopflow.workflows.finetuning_config import FineTuning, read_fine_tuning, read_structures
from tiny_frames import MATERIALS, teacher_frames, write_teacher_frames, write_tiny_mace

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "finetune.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finetune")
    write_tiny_mace(place / "tiny.model")
    write_teacher_frames(place / "frames" / "a.extxyz")
    return place


def config(folder: Path, name: str = "config", **content: Any) -> Path:
    good = {"dataset": "frames", "output": "out", "foundation": "tiny.model"}
    given = {key: value for key, value in {**good, **content}.items() if value is not None}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(given))
    return file


def test_the_command_says_what_it_made_and_how_it_is_used(folder):
    file = config(folder, epochs=1, learning_rate=0.01, against_forgetting="none", citation="made up")
    out, err = call("finetune", file)
    output = folder / "out"
    assert "epoch 1 of 1: validation loss" in err
    document = json.loads((output / "metrics.json").read_text())
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[1:10]] == [
        [split, word] for split in ("train", "validation", "test") for word in ("before", "after", "after")
    ]
    assert f"model: {output / 'finetuned.model'}" in lines
    assert f"model card: {output / 'finetuned.md'}" in lines
    assert lines[-1] == f"potential: {document['potential']}"
    assert "- data: made up; licence: not stated" in (output / "finetuned.md").read_text()
    splits = document["data"]["splits"]
    assert sorted(name for each in splits.values() for name in each["materials"]) == sorted(MATERIALS)
    assert sum(each["frames"] for each in splits.values()) == len(teacher_frames())
    # the line is a potential
    frames = read(folder / "frames" / "a.extxyz", ":4")
    assert load_potential(document["potential"]).energies(frames).shape == (4,)
    # a second call trains nothing, and a program gets what the file holds
    as_json, err = call("finetune", file, "--json")
    assert "epoch" not in err
    assert json.loads(as_json) == document
    _, err = call("finetune", config(folder, epochs=2, learning_rate=0.01, against_forgetting="none"), code=1)
    assert "holds a fine-tuning with other epochs; choose another output folder" in err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epoch": 3}, "epoch: unknown key; allowed here: dataset, train, validation, test, output, foundation"),
        ({"dataset": None}, "give dataset, or train, validation and test (missing: train, validation, test)"),
        ({"train": "frames"}, "dataset and train exclude each other"),
        ({"dataset": None, "train": "frames", "test": "frames"}, "(missing: validation)"),
        ({"dataset": None, "train": "frames", "validation": "frames", "test": "frames"}, "in more than one split"),
        ({"dataset": "nowhere"}, "There is no file or folder"),
        ({"dataset": "."}, "holds no extended XYZ file"),
        ({"energy_key": "REF_energy"}, "35 no_energy"),
        (
            {"foundation": "no-such-model"},
            "there is no MACE model or file called 'no-such-model'; the registry has mace",
        ),
        ({"foundation": "m3gnet-mp-2021.2.8"}, "m3gnet-mp-2021.2.8 is no MACE model"),
        ({"against_forgetting": "replay"}, "against_forgetting: replay and replay_file need each other"),
        ({"replay_file": "frames"}, "against_forgetting: replay and replay_file need each other"),
        ({"against_forgetting": "none", "frozen": "products"}, "freezes nothing; leave frozen out"),
        ({"against_forgetting": "hope"}, "input should be 'freeze', 'replay' or 'none'"),
        ({"test_share": 1.5}, "test_share: input should be less than 1"),
        ({"test_share": 0.9, "validation_share": 0.9}, "of 5 materials none is left to learn from"),
        ({"benchmark": {"paths": "x", "limits": 3}}, "benchmark.limits: unknown key"),
        ({"benchmark": {"paths": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"output": "config.yaml"}, "cannot be written"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(folder, change, sentence):
    out, err = call("finetune", config(folder, **{"output": "refused", **change}), code=2)
    assert out == ""
    assert sentence.lower() in err.lower()
    assert "Traceback" not in err
    assert not (folder / "refused").exists()


def test_a_file_that_is_no_model_is_refused(folder):
    (folder / "text.model").write_text("nothing")
    _, err = call("finetune", config(folder, foundation="text.model", output="refused"), code=1)
    assert "does not hold a MACE model" in err or "cannot be read as a model" in err


def test_defaults_paths_and_the_example(folder):
    chosen = read_fine_tuning(
        config(folder, dataset=None, train="t", validation="v", test="/abs/x", benchmark={"paths": "p.jsonl"})
    )
    assert (chosen.train, chosen.validation, chosen.test) == (folder / "t", folder / "v", Path("/abs/x"))
    assert chosen.benchmark is not None
    assert chosen.benchmark.paths == folder / "p.jsonl"
    assert chosen.foundation == str(folder / "tiny.model")
    assert FineTuning(dataset=Path("a"), output=Path("b")).training("cpu") == FineTuningSettings()
    example = read_fine_tuning(EXAMPLE)
    assert example.dataset is not None
    assert example.dataset.parent.resolve() == EXAMPLE.parents[1] / "build"
    assert example.foundation == "mace-mp-0-small"


def test_a_replay_file_that_breaks_off_is_named_in_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "replay.xyz"
    broken.write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nLi 0 0 0\n2\nLattice="4 0 0 0 4 0 0 0 4"\nLi 0 0\n')
    chosen = FineTuning(dataset=tmp_path, output=tmp_path, against_forgetting="replay", replay_file=broken)
    with pytest.raises(HopflowError, match=r"holds 1 structures to replay \(1 frames left out: 1 unreadable\)"):
        read_structures(broken, chosen, frozenset({"Li"}))
