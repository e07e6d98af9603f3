"""What a person writes for a training or a comparison of networks, checked like a campaign file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .spec import SpecificationError, read_model

if TYPE_CHECKING:
    from ..learning.barrier_evaluation import BarrierEvaluationSettings
    from ..learning.evidence_training import EvidenceTrainingSettings
    from ..learning.interstitial_ensembles import EnsembleSettings
    from ..learning.interstitial_evaluation import EvaluationSettings
    from ..learning.interstitial_storage import InterstitialDataset
    from ..learning.training import TrainingSettings


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


class PathTableConfig(BaseModel):
    """Which paths are learned from or judged with, and how they are dealt."""

    model_config = ConfigDict(extra="forbid")

    paths: Path = Field(
        description="Path table (`.jsonl` or `.jsonl.gz`) with `barrier_dft_eV`; relative paths start at this file."
    )
    output: Path = Field(description="Folder for what is made, and for what is needed to go on after an interruption.")
    folds: int = Field(5, ge=2, description="Parts that the hosts are dealt to; each is held out once.")


class BarrierConfig(PathTableConfig):
    """How the path network is trained."""

    members_per_fold: int = Field(3, ge=1, description="Networks a fold.")
    epochs: int = Field(30, gt=0, description="How often the paths are shown.")
    batch_size: int = Field(24, gt=0, description="Paths of one step.")
    learning_rate: float = Field(3e-3, gt=0, description="Highest learning rate of the cycle.")
    weight_decay: float = Field(3e-2, ge=0, description="Pull of all weights towards zero.")
    hidden: int = Field(48, gt=0, description="Channels of the network.")
    layers: int = Field(2, gt=0, description="Rounds of messages.")
    dropout: float = Field(0.15, ge=0, lt=0.5, description="Share of channels that a step leaves out.")
    offset_eV: float = Field(0.5, gt=0, description="The network learns log(barrier + offset).")
    distance_noise_A: float = Field(0.03, ge=0, description="Random change of distances while learning (Angstrom).")
    auxiliary_weight: float = Field(
        0.5, ge=0, description="Weight of the second output, which learns `barrier_mace_relax_eV`."
    )
    outlier_eV: float = Field(4.0, gt=0, description="Rows above this are learned from, and reported apart.")
    seed: int = Field(0, ge=0, description="Of folds and networks.")

    def training(self) -> TrainingSettings:
        """What :func:`..learning.training.train_path_network` takes."""
        from ..learning.path_network import NetworkSettings
        from ..learning.training import TrainingSettings

        chosen = self.model_dump(include=set(BarrierConfig.model_fields) - {"paths", "output", "seed"})
        network = NetworkSettings(**{name: chosen.pop(name) for name in ("hidden", "layers", "dropout")})
        return TrainingSettings(network=network, **chosen)


class BarrierTraining(BarrierConfig):
    """Keys of `hopflow train barrier`."""

    model: Literal["fast", "path-network"] = Field(
        "fast",
        description=(
            "`fast` trains `geometry`, `fast` and `fused` together; `path-network` trains the network. Keys that only "
            "the other one uses are refused."
        ),
    )
    repeats: int = Field(3, ge=1, description="Cross-validations of `fast`, each with other folds.")
    only_judged: list[str] = Field([], description="Names of paths that `fast` is judged by and never learns from.")
    citation: str = Field("not stated", description="Source of the paths, for the model card of `fast`.")
    licence: str = Field("not stated", description="Licence of the paths, for the model card of `fast`.")

    @model_validator(mode="after")
    def _only_keys_of_the_model(self) -> BarrierTraining:
        of_networks = set(BarrierConfig.model_fields) - set(PathTableConfig.model_fields) - {"seed", "outlier_eV"}
        of_fast = {"repeats", "only_judged", "citation", "licence"}
        if unused := sorted(self.model_fields_set & (of_networks if self.model == "fast" else of_fast)):
            raise ValueError(f"the model {self.model} does not use {', '.join(unused)}; leave that out")
        return self

    def evidence(self) -> EvidenceTrainingSettings:
        """What :func:`..learning.evidence_training.train_evidence_models` takes."""
        from ..learning.evidence_training import EvidenceTrainingSettings

        return EvidenceTrainingSettings(
            folds=self.folds,
            repeats=self.repeats,
            only_judged=tuple(self.only_judged),
            outlier_eV=self.outlier_eV,
            seed=self.seed,
            citation=self.citation,
            licence=self.licence,
        )


class BarrierEvaluation(PathTableConfig):
    """Keys of `hopflow evaluate barrier`."""

    learners: list[str] = Field(
        ["fast", "fused", "geometry", "random-forest", "gradient-boosting"],
        min_length=1,
        description="Names of learners, in the table's order; a wrong name is answered with all that there are.",
    )
    repeats: int = Field(3, ge=1, description="Cross-validations, each with other folds.")
    scenarios: bool = Field(
        False, description="Judge new paths and new fillings of known hosts, too; costs three times as much."
    )
    sizes: list[int] = Field(
        [], description="Numbers of training paths of a learning curve; each costs as much as the comparison itself."
    )
    curve_learners: list[str] = Field([], description="Learners that have a learning curve; without it, all.")
    only_judged: list[str] = Field([], description="Names of paths that are judged and never learned from.")
    outlier_eV: float = Field(4.0, gt=0, description="Rows above this are reported apart.")
    samples: int = Field(500, ge=20, description="Draws of hosts behind each interval.")
    seed: int = Field(0, ge=0, description="Of folds and learners.")

    @field_validator("learners", "curve_learners")
    @classmethod
    def _known_learners(cls, learners: list[str]) -> list[str]:
        from ..learning.learner_registry import barrier_learner

        for name in learners:
            barrier_learner(name)
        return _once(learners)

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: list[int]) -> list[int]:
        if any(size < 2 for size in sizes) or sizes != sorted(set(sizes)):
            raise ValueError("sizes must rise and be at least 2")
        return sizes

    def settings(self) -> BarrierEvaluationSettings:
        """What :func:`..learning.barrier_evaluation.evaluate_barrier_learners` takes."""
        from ..learning.barrier_evaluation import BarrierEvaluationSettings

        lists = ("learners", "sizes", "curve_learners", "only_judged")
        plain: dict[str, Any] = self.model_dump(exclude={"paths", "output"})
        return BarrierEvaluationSettings(**plain | {name: tuple(plain[name]) for name in lists})


_GROUPS = {"chemical_system": "chemical systems", "prototype": "prototypes"}

Config = TypeVar("Config", bound=BaseModel)


def read_config(path: Path, model: type[Config], what: str) -> Config:
    """Read a file; its paths become absolute, relative ones from the folder of the file.

    Raises
    ------
    SpecificationError
        The file is missing, is not YAML, or says something that is not allowed; every fault with its line.
    """
    config = read_model(path, model, what)
    folder = path.resolve().parent
    named = [name for name, key in model.model_fields.items() if key.annotation is Path]
    places = {name: folder / getattr(config, name).expanduser() for name in named}
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


def check_paths(path: Path, config: PathTableConfig) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Read the path table that a configuration names, and make sure that it can be dealt as it is meant to be.

    Parameters
    ----------
    path
        The configuration's file.
    config
        What it says.

    Returns
    -------
    Rows that can be learned from, and those that are left out, see
    :func:`..learning.path_rows.read_labelled_rows`.

    Raises
    ------
    SpecificationError
        There is no such table, or it is too small.
    """
    from ..learning.barrier_evaluation import BarrierEvaluationSettings, least_training_paths
    from ..learning.path_rows import PathFileError, read_labelled_rows

    try:
        rows, left_out = read_labelled_rows(config.paths)
    except PathFileError as error:
        raise SpecificationError(f"{path}: paths: {error}") from error
    if not rows:
        why = f" ({left_out[0]['error']})" if left_out else ""
        raise SpecificationError(f"{path}: {config.paths} holds no path that can be learned from{why}.")
    settings = BarrierEvaluationSettings(folds=config.folds, repeats=1)
    if isinstance(config, BarrierEvaluation):
        settings = config.settings()
    elif isinstance(config, BarrierTraining):
        settings = BarrierEvaluationSettings(
            folds=config.folds, repeats=config.repeats, only_judged=tuple(config.only_judged)
        )
    if unknown := sorted(set(settings.only_judged) - {row["path_id"] for row in rows}):
        raise SpecificationError(f"{path}: only_judged: {config.paths} has no path called {', '.join(unknown)}.")
    try:
        most = least_training_paths(rows, settings)
    except ValueError as error:
        raise SpecificationError(f"{path}: {config.paths}: {error} Add paths or ask for fewer folds.") from error
    if settings.sizes and settings.sizes[-1] >= most:
        raise SpecificationError(
            f"{path}: sizes: {settings.sizes[-1]} training paths are too many, the folds leave {most} to train on."
        )
    return rows, left_out


def _once(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there twice; leave one out")
    return names
