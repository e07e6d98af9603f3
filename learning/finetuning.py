"""Fine-tuning of a MACE model: reference energies, training, a plain model file, its card and its errors."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..transport.energies import Potential
from ..transport.errors import HopflowError
from .ensembles import without_nan
from .finetuned import load_mace, potential_line
from .finetuning_data import Frame
from .finetuning_evaluation import (
    BARRIERS,
    COLUMNS,
    DEFINITIONS,
    ENERGY,
    FORCES,
    Answers,
    ask,
    energy_offsets_eV,
    error_table,
    frame_errors,
    split_errors,
)
from .finetuning_splits import SPLITS, FrameSet, frames_key, write_frames
from .finetuning_training import HEAD, FineTuningSettings, Judge, MaceTraining, Progress, TrainingFiles, differing
from .prediction import file_sha256

MODEL, CARD, METRICS = "finetuned.model", "finetuned.md", "metrics.json"

LoadModel = Callable[[Path], Potential]


@dataclass(frozen=True)
class Foundation:
    """The model that is trained on.

    Attributes
    ----------
    name
        What it is called.
    file
        Its model file.
    """

    name: str
    file: Path


def foundation_energies_eV(file: Path) -> dict[int, float]:
    """Reference energy of each element of a model, by atomic number.

    Raises
    ------
    HopflowError
        The file holds no MACE model, or one of several heads.
    """
    model = load_mace(file)
    energies = np.atleast_2d(model.atomic_energies_fn.atomic_energies.detach().double().numpy())
    if len(energies) != 1:
        heads = ", ".join(getattr(model, "heads", []))
        raise HopflowError(f"{file} has several heads ({heads}); write out one of them with mace_select_head first.")
    return {int(z): float(e) for z, e in zip(model.atomic_numbers, energies[0], strict=True)}


def fine_tune(
    data: FrameSet,
    foundation: Foundation,
    settings: FineTuningSettings,
    load: LoadModel,
    output: Path,
    replay: Sequence[Frame] = (),
    facts: dict[str, Any] | None = None,
    say: Progress | None = None,
) -> dict[str, Any]:
    """Train a foundation model on, judge it before and after, and write everything that comes of it.

    Parameters
    ----------
    data
        Frames of the three splits.
    foundation
        The model.
    settings
        How it is trained.
    load
        Gives the potential of a model file.
    output
        Folder for ``finetuned.model``, its card ``finetuned.md``, ``metrics.json``, and under ``training`` what is
        needed to go on after an interruption.
    replay
        With ``against_forgetting: replay``: frames of other structures, whose energies and forces are replaced by what
        the foundation model says.
    facts
        More for ``metrics.json`` and the card: where the data come from.
    say
        Called with one line after each epoch and while frames are evaluated.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    HopflowError
        The folder holds another fine-tuning, the foundation model cannot be used, or the training failed.
    """
    say = say or (lambda _: None)
    if (settings.against_forgetting == "replay") != bool(replay):
        raise HopflowError("Replay needs frames to replay, and frames to replay need `against_forgetting: replay`.")
    work = output / "training"
    _claim(work, data, foundation, settings, replay)
    potential = load(foundation.file)
    before = split_errors(data, potential, work / "before", say)
    offsets_eV = _offsets_eV(data, potential, work, say) if settings.reference_energies == "fitted" else {}
    files = _files(work, data, foundation, potential, offsets_eV, replay, say)
    # a model of two heads is not put together before the end
    judge = None if replay else validation_judge(data, foundation, load, before["validation"], work / "judged")
    training = MaceTraining(work, files, settings, judge)
    training.run(say)
    model = output / MODEL
    save_model(plain_model(training), model)
    after = split_errors(data, load(model), work / "after", say)
    best = training.best_epoch()
    history, scores = training.history(), training.scores()
    document: dict[str, Any] = without_nan(
        {
            "sha256": file_sha256(model),
            "foundation": {"name": foundation.name, "sha256": file_sha256(foundation.file)},
            "settings": asdict(settings),
            "data": {**(facts or {}), **_counts(data), "replayed_frames": len(replay)},
            "energy_offsets_eV_per_atom": offsets_eV,
            "definitions": DEFINITIONS,
            "before": before,
            "after": after,
            "epochs": [
                {"epoch": number + 1, **asdict(epoch), "share_of_errors_left": scores.get(number)}
                for number, epoch in history.items()
            ],
            "chosen_epoch": best + 1,
            "training_seconds": sum(epoch.seconds for epoch in history.values()),
            "versions": {
                name: importlib.metadata.version(package)
                for name, package in (("mace", "mace-torch"), ("torch", "torch"), ("ase", "ase"))
            },
            "potential": potential_line(model),
        }
    )
    (output / METRICS).write_text(json.dumps(document, indent=1) + "\n")
    (output / CARD).write_text(model_card(document, error_table(before, after)))
    return document


def plain_model(training: MaceTraining) -> Any:
    """The model of the best epoch with the weights that were judged, and one head."""
    model = load_mace(training.last_model)
    checkpoint = torch.load(training.checkpoint(training.best_epoch()), map_location="cpu", weights_only=False)
    model.load_state_dict(checkpoint["model"])
    heads = list(getattr(model, "heads", []))
    if len(heads) > 1:
        from mace.tools.scripts_utils import remove_pt_head

        dtype = next(model.parameters()).dtype
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = remove_pt_head(model, HEAD)
        finally:
            torch.set_default_dtype(before)
    for parameter in model.parameters():
        parameter.requires_grad = True
    return model.to("cpu").eval()


def validation_judge(
    data: FrameSet, foundation: Foundation, load: LoadModel, before: dict[str, Any], folder: Path
) -> Judge:
    """Judge of epochs: the share of the foundation model's validation errors that is left.

    The mean of energies (with the zero of each composition taken out), forces and barriers, of what the frames have.
    MACE's own loss counts the zero of energy of compositions that were not learned from, which drifts and decides
    nothing.

    Parameters
    ----------
    data, foundation, load
        As for :func:`fine_tune`.
    before
        Errors of the foundation model on the validation frames.
    folder
        Place for the model that is judged.
    """
    frames = data.splits["validation"]
    images = [frame.atoms for frame in frames]

    def judge(checkpoint: Path) -> float:
        model = load_mace(foundation.file)
        weights = torch.load(checkpoint, map_location="cpu", weights_only=False)["model"]
        own = model.state_dict()
        # training has one row of reference energies a head, a plain model may have them bare
        model.load_state_dict({name: value.reshape(own[name].shape) for name, value in weights.items() if name in own})
        # a name of its own, for whoever keeps what it has loaded
        file = folder / f"{checkpoint.stem}.model"
        save_model(model.eval(), file)
        energies_eV, forces = load(file).energies_and_forces(images)
        file.unlink()
        errors = frame_errors(frames, Answers(energies_eV, list(forces)))
        shares = [errors[name] / before[name] for name in (ENERGY, FORCES, BARRIERS) if before[name]]
        return float(np.nanmean(shares))

    return judge


def save_model(model: Any, file: Path) -> None:
    """Write a model through a neighbouring file; the same model gives the same bytes."""
    written = io.BytesIO()
    torch.save(model, written)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    partial.write_bytes(written.getvalue())
    partial.replace(file)


def _claim(
    work: Path, data: FrameSet, foundation: Foundation, settings: FineTuningSettings, replay: Sequence[Frame]
) -> None:
    """Note what the folder is for, or make sure that it is for just that."""
    # threads and device change how fast, not what
    what = {name: value for name, value in asdict(settings).items() if name not in ("threads", "device")}
    now = {**what, "frames": data.key(), "foundation": file_sha256(foundation.file), "replay": frames_key(replay)}
    note = work / "settings.json"
    if note.is_file():
        if changed := differing(json.loads(note.read_text()), now):
            raise HopflowError(
                f"{work.parent} holds a fine-tuning with other {', '.join(changed)}; choose another output folder, or "
                "remove it to start afresh."
            )
        return
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(now, indent=1) + "\n")


def _offsets_eV(data: FrameSet, potential: Potential, work: Path, say: Progress) -> dict[str, float]:
    """Offsets of the elements of training and validation frames; without the latter, an element that only they have
    would decide by its zero of energy which epoch is the best.
    """
    frames, energies_eV, forces = [], [], []
    for split in ("train", "validation"):
        answers = ask(potential, data.splits[split], work / "before" / f"{split}.npz", say, split)
        frames += data.splits[split]
        energies_eV.append(answers.energies_eV)
        forces += answers.forces_eV_per_A
    return energy_offsets_eV(frames, Answers(np.concatenate(energies_eV), forces))


def _files(
    work: Path,
    data: FrameSet,
    foundation: Foundation,
    potential: Potential,
    offsets_eV: dict[str, float],
    replay: Sequence[Frame],
    say: Progress,
) -> TrainingFiles:
    """Write what MACE reads."""
    from ase.data import atomic_numbers

    work = work.resolve()
    energies_eV = foundation_energies_eV(foundation.file)
    for symbol, offset_eV in offsets_eV.items():
        energies_eV[atomic_numbers[symbol]] += offset_eV
    references = work / "reference_energies.json"
    references.write_text(json.dumps({str(z): energy for z, energy in energies_eV.items()}, indent=1) + "\n")
    for split in ("train", "validation"):
        write_frames(data.splits[split], work / f"{split}.xyz")
    second = None
    if replay:
        second = work / "replay.xyz"
        answers = ask(potential, replay, work / "before" / "replay.npz", say, "replay")
        write_frames(_relabelled(replay, answers), second)
    return TrainingFiles(
        foundation=foundation.file.resolve(),
        train=work / "train.xyz",
        validation=work / "validation.xyz",
        reference_energies=references,
        replay=second,
        training_frames=len(data.splits["train"]),
        with_stress=any(frame.stress_eV_per_A3 is not None for frame in data.splits["train"]),
    )


def _relabelled(frames: Sequence[Frame], answers: Answers) -> list[Frame]:
    return [
        Frame(frame.atoms, float(energy), forces, None, frame.material)
        for frame, energy, forces in zip(frames, answers.energies_eV, answers.forces_eV_per_A, strict=True)
    ]


def _counts(data: FrameSet) -> dict[str, Any]:
    return {
        "split": data.rule,
        "splits": {
            split: {
                "frames": len(data.splits[split]),
                "materials": data.materials(split),
                "elements": data.elements(split),
            }
            for split in SPLITS
        },
        "left_out": data.left_out.document(),
    }


def model_card(document: dict[str, Any], rows: Sequence[Sequence[str]]) -> str:
    """The card of a fine-tuned model in Markdown, from the content of ``metrics.json`` and the table of errors."""
    data, settings = document["data"], document["settings"]
    trained = set(data["splits"]["train"]["elements"])
    unseen = sorted(set(data["splits"]["test"]["elements"]) - trained)
    head = ["split", "", *COLUMNS.values()]
    lines = [
        f"# Fine-tuned from {document['foundation']['name']}",
        "",
        f"- sha256: `{document['sha256']}`",
        f"- foundation: {document['foundation']['name']}, sha256 `{document['foundation']['sha256']}`",
        f"- data: {data.get('citation', 'not stated')}; licence: {data.get('licence', 'not stated')}",
        f"- epoch {document['chosen_epoch']} of {len(document['epochs'])} (lowest validation errors), "
        f"{document['training_seconds']:.0f} s",
        f"- versions: {', '.join(f'{name} {version}' for name, version in document['versions'].items())}",
        "- settings: " + ", ".join(f"{name} {value}" for name, value in settings.items()),
        "",
        "## Use",
        "",
        "Wherever a potential is named:",
        "",
        f"    {document['potential']}",
        "",
        "A model that is named so runs as mace-torch has it, without the faster loops that hopflow brings for models "
        "of its registry. Elsewhere the file is read by `mace.calculators.MACECalculator(model_paths=...)`.",
        "",
        "## Data",
        "",
        f"Split by material: {data['split']}.",
        "",
        *_table(
            ["split", "frames", "materials", "elements"],
            [
                [split, str(each["frames"]), ", ".join(each["materials"]), ", ".join(each["elements"])]
                for split, each in data["splits"].items()
            ],
        ),
        "",
    ]
    if data["left_out"]:
        refused = ", ".join(f"{each['frames']} {reason}" for reason, each in data["left_out"].items())
        lines += [f"Left out: {refused}.", ""]
    if data["replayed_frames"]:
        lines += [f"Replayed: {data['replayed_frames']} frames with the foundation model's own energies.", ""]
    lines += ["## Errors", "", document["definitions"], "", *_table(head, rows), ""]
    barriers = [
        [
            new["material"],
            new["path_id"],
            *(f"{value:.3f}" for value in (new["reference_eV"], old["found_eV"], new["found_eV"])),
        ]
        for old, new in zip(document["before"]["test"]["barriers"], document["after"]["test"]["barriers"], strict=True)
    ]
    if barriers:
        lines += ["Barriers of the test materials:", ""]
        lines += [*_table(["material", "path", "reference, eV", "before, eV", "after, eV"], barriers), ""]
    lines += [
        "## Limits",
        "",
        "Trained on " + ", ".join(sorted(trained)) + ". Other elements are answered as the foundation model left them, "
        "beside layers that have changed, and their reference energies were not fitted"
        + (f"; of the test materials that concerns {', '.join(unseen)}" if unseen else "")
        + ". What was not in the data may have been forgotten: check it on paths of your own.",
        "",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
