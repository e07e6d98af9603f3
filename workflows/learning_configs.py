"""What a person writes for a training or a comparison of networks, checked like a campaign file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .spec import SpecificationError, read_model

if TYPE_CHECKING:
    from ..learning.interstitial_ensembles import EnsembleSettings
    from ..learning.interstitial_evaluation import EvaluationSettings
    from ..learning.interstitial_storage import InterstitialDataset


class LearningConfig(BaseModel):
    """Where the data are and where the results go."""

    model_config = ConfigDict(extra="forbid")

    dataset: Path = Field(description="Folder of the data set; relative paths start at this file.")
    output: Path = Field(description="Folder for what is made, and for what is needed to go on after an interruption.")


class InterstitialTraining(LearningConfig):
    """Keys of `hopflow train interstitial`."""

    network: str = Field("percolating-surfaces", description="One of the `percolating` networks.")
    folds: int = Field(
        5, ge=2, description="Members of the ensemble; each leaves the chemical systems of one fold out."
    )
    epochs: int | None = Field(
        None, gt=0, description="How often the crystals are shown; without it, the network's own number."
    )
    threshold_eV: float = Field(0.5, gt=0, description="Gate that precision and recall are given for.")
    seed: int = Field(0, ge=0, description="Of folds and members.")

    @field_validator("network")
    @classmethod
    def _knows_uncertainty(cls, network: str) -> str:
        from ..learning.interstitial_ensembles import EnsembleSettings

        EnsembleSettings(network)
        return network

    def settings(self) -> EnsembleSettings:
        """What :func:`..learning.interstitial_ensembles.train_ensemble` takes."""
        from ..learning.interstitial_ensembles import EnsembleSettings

        return EnsembleSettings(**self.model_dump(exclude={"dataset", "output"}))


class InterstitialEvaluation(LearningConfig):
    """Keys of `hopflow evaluate interstitial`."""

    networks: list[str] = Field(min_length=1, description="Names of networks and references, in the table's order.")
    splits: list[str] = Field(
        ["random", "chemical_system", "prototype"],
        min_length=1,
        description="Ways to deal the crystals: `random`, `chemical_system`, `prototype`, `anion`.",
    )
    repeats: int = Field(10, ge=1, description="Splits of each kind; those by anion are as many as there are anions.")
    epochs: int | None = Field(None, gt=0, description="Training of every network; without it, each one's own number.")
    one_cycle: bool = Field(True, description="Let the learning rate rise and fall; otherwise it stays as it is.")
    members: int = Field(1, ge=1, description="Networks of an ensemble.")
    threshold_eV: float = Field(0.5, gt=0, description="Gate that precision and recall are given for.")
    seed: int = Field(0, ge=0, description="Of splits and networks.")

    @field_validator("networks")
    @classmethod
    def _known_networks(cls, networks: list[str]) -> list[str]:
        from ..learning.interstitial_evaluation import EvaluationSettings

        EvaluationSettings(tuple(networks))
        return _once(networks)

    @field_validator("splits")
    @classmethod
    def _known_splits(cls, splits: list[str]) -> list[str]:
        from ..learning.interstitial_evaluation import EvaluationSettings

        EvaluationSettings((), tuple(splits))
        return _once(splits)

    def settings(self) -> EvaluationSettings:
        """What :func:`..learning.interstitial_evaluation.evaluate_networks` takes."""
        from ..learning.interstitial_evaluation import EvaluationSettings

        plain = self.model_dump(exclude={"dataset", "output", "networks", "splits"})
        return EvaluationSettings(tuple(self.networks), tuple(self.splits), **plain)


_GROUPS = {"chemical_system": "chemical systems", "prototype": "prototypes"}

Config = TypeVar("Config", bound=LearningConfig)


def read_config(path: Path, model: type[Config], what: str) -> Config:
    """Read a file; its paths become absolute, relative ones from the folder of the file.

    Raises
    ------
    SpecificationError
        The file is missing, is not YAML, or says something that is not allowed; every fault with its line.
    """
    config = read_model(path, model, what)
    folder = path.resolve().parent
    places = {name: folder / getattr(config, name).expanduser() for name in ("dataset", "output")}
    return config.model_copy(update=places)


def check_dataset(path: Path, folder: Path, splits: dict[str, int], repeats: int, seed: int) -> InterstitialDataset:
    """Make sure that a data set is whole and can be dealt as it is meant to be, before hours go into networks.

    Parameters
    ----------
    path
        The file that names the data set.
    folder
        The data set.
    splits
        Kinds of splits, each with the number of parts that it deals to.
    repeats, seed
        Of the splits.

    Returns
    -------
    InterstitialDataset
        Its crystals that have a barrier.

    Raises
    ------
    SpecificationError
        There is no such data set, it is not complete, or it is too small.
    """
    from ..learning.interstitial_evaluation import labelled_only, splits_of
    from ..learning.interstitial_storage import load_dataset

    try:
        dataset = labelled_only(load_dataset(folder))
        for kind, parts in splits.items():
            held = dataset.groups(kind) if kind in _GROUPS else range(len(dataset.crystals))
            if (there := len(set(held))) < parts:
                raise ValueError(
                    f"{folder} holds {there} {_GROUPS.get(kind, 'crystals')} with barriers, too few for {parts} parts; "
                    "add crystals or ask for less."
                )
            if kind == "anion":
                dealt = splits_of(dataset, kind, repeats, seed)
                if any(len(split.validation) == 0 for _, split in dealt):
                    raise ValueError(f"{folder} holds too few crystals of other anions to hold one out.")
    except ValueError as error:
        raise SpecificationError(f"{path}: {error}") from error
    return dataset


def _once(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there twice; leave one out")
    return names
