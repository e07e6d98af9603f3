"""What a person writes for a fine-tuning, checked like a campaign file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..learning.finetuning_training import AgainstForgetting, FineTuningSettings, FrozenPart
from .spec import SpecificationError, read_model

if TYPE_CHECKING:
    from ..learning.finetuning import Foundation
    from ..learning.finetuning_data import Frame, ReadingSettings, Split
    from ..learning.finetuning_splits import FrameSet

_FILE_KEYS = ("train", "validation", "test")


class BandComparison(BaseModel):
    """Bands of known barriers that both potentials are judged by, before and after."""

    model_config = ConfigDict(extra="forbid")

    paths: Path = Field(
        description="Path table with `barrier_dft_eV`, or a nebDFT2k folder; relative paths start at this file."
    )
    max_atoms: int = Field(0, ge=0, description="Leave out larger cells; 0 leaves out none.")
    limit: int = Field(0, ge=0, description="Draw so many paths by lot; 0 takes all.")
    seed: int = Field(0, ge=0, description="Of the lot.")


class FineTuning(BaseModel):
    """Keys of `hopflow finetune`. The data are either `dataset`, or the three files `train`, `validation`, `test`."""

    model_config = ConfigDict(extra="forbid")

    dataset: Path | None = Field(
        None,
        description="Extended XYZ file, or folder of such files (`*.extxyz`, `*.xyz`, also gzipped); files that end in "
        "`_train`, `_val`, `_test` are splits. Relative paths start at this file.",
    )
    train: Path | None = Field(None, description="File or folder of the frames to learn from.")
    validation: Path | None = Field(None, description="File or folder of the frames that choose the epoch.")
    test: Path | None = Field(None, description="File or folder of the frames that judge.")
    output: Path = Field(description="Folder for what is made, and for what is needed to go on after an interruption.")
    foundation: str = Field(
        "mace-mp-0-small",
        description="MACE model of the registry, or a model file; a file is unpickled and can run code.",
    )
    splits: Literal["auto", "dealt"] = Field(
        "auto", description="`auto` takes the splits that the data name; `dealt` deals the materials by lot."
    )
    validation_share: float = Field(0.15, gt=0, lt=1, description="Share of the materials, where they are dealt.")
    test_share: float = Field(0.15, gt=0, lt=1, description="Share of the materials, where they are dealt.")
    frames_per_material: int = Field(
        0, ge=0, description="Draw so many frames by lot where a material has more; 0 takes all."
    )
    max_force_eV_per_A: float = Field(30.0, gt=0, description="Frames with a larger force on an atom are refused.")
    energy_key: str = Field("energy", description="Key of the energy of the cell, in eV.")
    forces_key: str = Field("forces", description="Key of the forces, in eV/Å.")
    stress_key: str = Field("stress", description="Key of the stress, in eV/Å³ with the sign of ASE.")
    material_key: str = Field(
        "material_id", description="Key of the material's name; a frame without it is called after its reduced formula."
    )
    path_key: str = Field("path_id", description="Key of the path whose band a frame is an image of.")
    split_key: str = Field("split", description="Key of the split: `train`, `validation` or `val`, `test`.")
    against_forgetting: AgainstForgetting = Field(
        "freeze",
        description="`freeze` holds a part of the network still; `replay` goes on learning what the foundation model "
        "says about the structures of `replay_file`; `none` lets everything change.",
    )
    frozen: FrozenPart = Field(
        "interactions",
        description="With `freeze`: what stands still, each with all that comes before it. After `interactions`, "
        "many-body products and readouts learn; after `products`, readouts alone.",
    )
    replay_file: Path | None = Field(
        None, description="With `replay`: structures as the data are; their energies and forces are not looked at."
    )
    reference_energies: Literal["fitted", "foundation"] = Field(
        "fitted",
        description="`fitted` first takes the mean difference of reference and foundation model for each element into "
        "the model's reference energies; `foundation` leaves them.",
    )
    epochs: int = Field(30, gt=0, description="How often the frames are shown.")
    patience: int = Field(
        10, gt=0, description="End after so many epochs without smaller errors on the validation materials."
    )
    batch_size: int = Field(4, gt=0, description="Frames of one step.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the first epoch.")
    final_learning_rate_share: float = Field(
        0.1, gt=0, le=1, description="Share of it that is left in the last epoch; it falls exponentially."
    )
    energy_weight: float = Field(
        300.0, ge=0, description="Weight of squared energy errors, in eV an atom; barriers follow energies."
    )
    forces_weight: float = Field(1.0, ge=0, description="Weight of squared force errors, in eV/Å.")
    stress_weight: float = Field(10.0, ge=0, description="Weight of squared stress errors, in eV/Å³, where known.")
    average_decay: float = Field(
        0.99, ge=0, lt=1, description="Decay of the moving average of the weights, which is kept; 0 averages nothing."
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Precision of the training.")
    device: str = Field("auto", description="`auto`, `cpu` or `cuda`.")
    threads: int = Field(1, gt=0, description="Of the training process.")
    seed: int = Field(0, ge=0, description="Of splits, lots and the order of the frames.")
    citation: str = Field("not stated", description="Source of the data, for the model card.")
    licence: str = Field("not stated", description="Licence of the data, for the model card.")
    benchmark: BandComparison | None = Field(
        None, description="Bands of known barriers, run by both potentials; costs minutes a path."
    )

    @model_validator(mode="after")
    def _one_source(self) -> FineTuning:
        files = [name for name in _FILE_KEYS if getattr(self, name) is not None]
        if self.dataset is not None and files:
            raise ValueError(f"dataset and {', '.join(files)} exclude each other; leave one out")
        if self.dataset is None and len(files) < len(_FILE_KEYS):
            missing = ", ".join(name for name in _FILE_KEYS if name not in files)
            raise ValueError(f"give dataset, or train, validation and test (missing: {missing})")
        if (self.against_forgetting == "replay") != (self.replay_file is not None):
            raise ValueError("against_forgetting: replay and replay_file need each other")
        if self.against_forgetting != "freeze" and "frozen" in self.model_fields_set:
            raise ValueError(f"against_forgetting: {self.against_forgetting} freezes nothing; leave frozen out")
        return self

    def reading(self) -> ReadingSettings:
        """What :func:`..learning.finetuning_data.read_frames` takes."""
        from ..learning.finetuning_data import FrameKeys, ReadingSettings

        names = ("energy", "forces", "stress", "material", "path", "split")
        keys = FrameKeys(**{name: getattr(self, f"{name}_key") for name in names})
        return ReadingSettings(keys, self.max_force_eV_per_A, self.frames_per_material, self.seed)

    def training(self, device: str) -> FineTuningSettings:
        """What :func:`..learning.finetuning.fine_tune` takes."""
        names = {each.name for each in fields(FineTuningSettings)} - {"device"}
        return FineTuningSettings(device=device, **self.model_dump(include=names))

    def absolute(self, folder: Path) -> FineTuning:
        """The same with absolute paths, relative ones from a folder."""
        names = ("dataset", *_FILE_KEYS, "output", "replay_file")
        update: dict[str, Any] = {
            name: folder / place.expanduser() for name in names if (place := getattr(self, name)) is not None
        }
        if self.benchmark is not None:
            paths = folder / self.benchmark.paths.expanduser()
            update["benchmark"] = self.benchmark.model_copy(update={"paths": paths})
        if (named := folder / Path(self.foundation).expanduser()).is_file():
            update["foundation"] = str(named)
        return self.model_copy(update=update)


def read_fine_tuning(path: Path) -> FineTuning:
    """Read a file; its paths become absolute, relative ones from the folder of the file.

    Raises
    ------
    SpecificationError
        The file is missing, is not YAML, or says something that is not allowed; every fault with its line.
    """
    return read_model(path, FineTuning, "fine-tuning file").absolute(path.resolve().parent)


def find_foundation(path: Path, chosen: FineTuning) -> Foundation:
    """The foundation model that a configuration names; weights of the registry are fetched if need be.

    Parameters
    ----------
    path
        The configuration's file.
    chosen
        What it says.

    Raises
    ------
    SpecificationError
        There is no such model, or it is no MACE model.
    WeightsError
        The weights are not to be had.
    """
    from ..learning.finetuning import Foundation
    from ..potentials.registry import fetch_weights, list_potentials

    entries = {entry.name: entry for entry in list_potentials()}
    if chosen.foundation in entries:
        if entries[chosen.foundation].family != "mace":
            raise SpecificationError(f"{path}: foundation: {chosen.foundation} is no MACE model; choose one that is.")
        return Foundation(chosen.foundation, fetch_weights(chosen.foundation))
    if (file := Path(chosen.foundation)).is_file():
        return Foundation(file.name, file)
    names = ", ".join(name for name, entry in entries.items() if entry.family == "mace")
    raise SpecificationError(
        f"{path}: foundation: there is no MACE model or file called {chosen.foundation!r}; the registry has {names}."
    )


def read_data(path: Path, chosen: FineTuning, elements: frozenset[str]) -> tuple[FrameSet, list[Frame]]:
    """Read and split the data that a configuration names.

    Parameters
    ----------
    path
        The configuration's file.
    chosen
        What it says.
    elements
        Symbols that the foundation model knows.

    Returns
    -------
    The frames of the three splits, and those to replay.

    Raises
    ------
    SpecificationError
        There are no such data, or they cannot be split.
    """
    from ..learning.finetuning_data import files_of, read_frames
    from ..learning.finetuning_splits import split_frames
    from ..transport.errors import HopflowError

    try:
        files: list[tuple[Path, Split | None]]
        if chosen.dataset is not None:
            files = files_of(chosen.dataset)
        else:
            places: dict[Split, Path | None] = {
                "train": chosen.train,
                "validation": chosen.validation,
                "test": chosen.test,
            }
            files = [(file, name) for name, place in places.items() if place is not None for file, _ in files_of(place)]
        frames, left_out = read_frames(files, chosen.reading(), elements)
        data = split_frames(
            frames, left_out, chosen.validation_share, chosen.test_share, chosen.seed, chosen.splits == "dealt"
        )
        replayed: list[Frame] = []
        if chosen.replay_file is not None:
            replayed = read_structures(chosen.replay_file, chosen, elements)
    except HopflowError as error:
        raise SpecificationError(f"{path}: {error}") from error
    return data, replayed


def read_structures(place: Path, chosen: FineTuning, elements: frozenset[str]) -> list[Frame]:
    """Frames to replay: whatever they say about energies and forces is not looked at.

    Raises
    ------
    HopflowError
        Fewer than two can be used.
    """
    import numpy as np

    from ..learning.finetuning_data import Frame, LeftOut, files_of, frames_in
    from ..transport.errors import HopflowError

    found, left_out = [], LeftOut()
    for file, _ in files_of(place):
        for _, atoms in frames_in(file, left_out):
            if len(atoms) and set(atoms.get_chemical_symbols()) <= elements:
                name = str(atoms.info.get(chosen.material_key) or atoms.get_chemical_formula())
                bare = atoms.copy()
                bare.info, bare.calc = {}, None
                found.append(Frame(bare, 0.0, np.zeros((len(atoms), 3)), None, name))
    if len(found) < 2:
        broken = f" ({left_out.sentence()})" if left_out.counts else ""
        raise HopflowError(f"{place} holds {len(found)} structures to replay{broken}; two are needed at least.")
    return found
