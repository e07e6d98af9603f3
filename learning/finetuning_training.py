"""Training by MACE's own entry point, ``mace.cli.run_train``, in a process of its own that can be gone on with."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..transport.errors import HopflowError

Progress = Callable[[str], None]
Judge = Callable[[Path], float]
AgainstForgetting = Literal["freeze", "replay", "none"]
FrozenPart = Literal["embedding", "interactions", "products"]

FREEZE_OF_PART: dict[FrozenPart, int] = {"embedding": 1, "interactions": 5, "products": 6}
"""What MACE's ``--freeze`` calls the parts; each holds those before it still, too."""

HEAD = "Default"
_NAME = "finetuned"
_SCORES = "scores.json"
_TAIL = 12
_POLL_S = 0.5
_CHECKPOINT = re.compile(r"_epoch-(\d+)\.pt$")
# MACE runs as it is; the thread ends it when the command that started it is no more.
_ENTRY = (
    "import os, runpy, threading\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
    "runpy.run_module('mace.cli.run_train', run_name='__main__', alter_sys=True)\n"
)


@dataclass(frozen=True)
class FineTuningSettings:
    """How a foundation model is trained on.

    Attributes
    ----------
    against_forgetting
        ``freeze`` holds a part of the network still; ``replay`` goes on learning what the foundation model says about
        other structures, with a head of their own that is dropped at the end; ``none`` lets everything change.
    frozen
        With ``freeze``: ``embedding``, ``interactions`` (embedding and message passing) or ``products`` (these and the
        many-body products, so that readouts alone learn).
    reference_energies
        ``fitted`` gives each element of the training and validation frames the energy offset, by least squares, between
        the reference and the foundation model; ``foundation`` leaves them as they are.
    epochs
        How often the frames are shown.
    patience
        Training ends after so many epochs without smaller errors on the validation materials.
    batch_size
        Frames of one step.
    learning_rate, final_learning_rate_share
        Learning rate of the first epoch, and the share of it that is left in the last one; it falls exponentially.
    energy_weight, forces_weight, stress_weight
        Weights of the squared errors of energy (eV an atom), forces (eV/Å) and stress (eV/Å³) in the loss; with
        ``replay`` MACE takes Huber losses instead. Errors of a few meV an atom are what barriers consist of; at small
        weights those of forces drown them (``benchmarks/finetune_from_teacher.py``).
    average_decay
        Decay of the moving average of the weights, which is what is judged and kept; 0 averages nothing.
    dtype
        Precision of the training.
    device
        ``cpu`` or ``cuda``.
    threads
        Of the training process.
    seed
        Of the order of the frames.
    """

    against_forgetting: AgainstForgetting = "freeze"
    frozen: FrozenPart = "interactions"
    reference_energies: Literal["fitted", "foundation"] = "fitted"
    epochs: int = 30
    patience: int = 10
    batch_size: int = 4
    learning_rate: float = 1e-3
    final_learning_rate_share: float = 0.1
    energy_weight: float = 300.0
    forces_weight: float = 1.0
    stress_weight: float = 10.0
    average_decay: float = 0.99
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class TrainingFiles:
    """What one training reads.

    Attributes
    ----------
    foundation
        Model file.
    train, validation
        Extended XYZ with ``REF_`` keys, see :func:`.finetuning_data.write_frames`.
    reference_energies
        JSON: energy of each element of the foundation model in eV, by atomic number.
    replay
        Extended XYZ of the second head, or None.
    training_frames
        Number of frames in ``train``.
    with_stress
        Whether any of them has a stress.
    """

    foundation: Path
    train: Path
    validation: Path
    reference_energies: Path
    replay: Path | None
    training_frames: int
    with_stress: bool


@dataclass(frozen=True)
class Epoch:
    """What one finished epoch gave on the validation frames.

    Attributes
    ----------
    loss
        Validation loss.
    energy_mae_meV_per_atom, force_mae_meV_per_A
        Mean absolute errors, with nothing removed.
    seconds
        Time of training and validation.
    """

    loss: float
    energy_mae_meV_per_atom: float
    force_mae_meV_per_A: float
    seconds: float


class MaceTraining:
    """A training in a folder; every finished epoch leaves a checkpoint, of which the best and the last ones are kept.

    Parameters
    ----------
    folder
        Where MACE works: ``checkpoints``, ``results``, ``logs`` and ``run_train.log``.
    files
        What it reads.
    settings
        How it is trained.
    judge
        Gives a finished epoch's checkpoint the number by which the best is chosen, the lower the better; MACE's own
        validation loss decides when None.
    """

    def __init__(
        self, folder: Path, files: TrainingFiles, settings: FineTuningSettings, judge: Judge | None = None
    ) -> None:
        self.folder = folder
        self.files = files
        self.settings = settings
        self.judge = judge
        tag = f"{_NAME}_run-{settings.seed}"
        self.checkpoints = folder / "checkpoints"
        self.results = folder / "results" / f"{tag}_train.txt"
        self.log = folder / "run_train.log"
        self.last_model = folder / "last_epoch.model"
        self._tag = tag

    def run(self, say: Progress) -> None:
        """Train until the epochs or the patience end, from where an earlier call stood.

        Raises
        ------
        HopflowError
            MACE ended with an error; the text quotes the end of its log.
        """
        if self.ended() and self.last_model.is_file():
            return
        first = self._prepare_restart()
        for epoch in range(first):
            if self.checkpoint(epoch).is_file():
                self._judge(epoch)
        if not self.ended():
            self.last_model.unlink(missing_ok=True)
            self._start(self.settings.epochs, first, say)
        if not self.last_model.is_file():
            # out of patience or interrupted: MACE writes its model file when it is told that no epoch is left
            self._start(self._prepare_restart(), self.settings.epochs, say)

    def history(self) -> dict[int, Epoch]:
        """Every finished epoch, counted from 0, in order."""
        found: dict[int, Epoch] = {}
        seconds: defaultdict[int, float] = defaultdict(float)
        for record in self._records():
            epoch = record.get("epoch")
            if epoch is None:
                continue
            if record["mode"] == "opt":
                seconds[epoch] += record["time"]
            elif record.get("head") == HEAD:
                found[epoch] = Epoch(
                    float(record["loss"]),
                    1000.0 * float(record["mae_e_per_atom"]),
                    1000.0 * float(record["mae_f"]),
                    seconds.pop(epoch, 0.0) + float(record["time"]),
                )
        return dict(sorted(found.items()))

    def best_epoch(self) -> int:
        """The epoch that the judge finds best, or that of the lowest validation loss."""
        return self._best(self.history())

    def scores(self) -> dict[int, float]:
        """What the judge has said of each epoch, counted from 0."""
        file = self.folder / _SCORES
        return {int(epoch): score for epoch, score in json.loads(file.read_text()).items()} if file.is_file() else {}

    def _best(self, history: dict[int, Epoch]) -> int:
        scores = self.scores()
        if history.keys() <= scores.keys():
            return min(history, key=scores.__getitem__)
        return min(history, key=lambda epoch: history[epoch].loss)

    def _judge(self, epoch: int) -> None:
        """Let the judge see an epoch, once."""
        scores = self.scores()
        if self.judge is not None and epoch not in scores:
            self._keep_scores({**scores, epoch: self.judge(self.checkpoint(epoch))})

    def _keep_scores(self, scores: dict[int, float]) -> None:
        (self.folder / _SCORES).write_text(json.dumps({str(epoch): score for epoch, score in scores.items()}))

    def checkpoint(self, epoch: int) -> Path:
        """Where MACE keeps an epoch."""
        return self.checkpoints / f"{self._tag}_epoch-{epoch}.pt"

    def ended(self) -> bool:
        """Whether no epoch is left, or patience is at an end."""
        history = self.history()
        return bool(history) and (max(history) + 1 >= self.settings.epochs or self._out_of_patience(history))

    def _out_of_patience(self, history: dict[int, Epoch]) -> bool:
        return max(history) - self._best(history) >= self.settings.patience

    def _records(self) -> list[dict[str, Any]]:
        if not self.results.is_file():
            return []
        records = []
        for line in self.results.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the end of a killed process
        return records

    def _prepare_restart(self) -> int:
        """Let MACE start from the last epoch that is whole; return the first that is not finished.

        MACE takes the number in a checkpoint's name for the next epoch, though the file was written after it; the last
        whole one is therefore put there under the number of the next.
        """
        history = self.history()
        for epoch, file in sorted(self._checkpoints().items(), reverse=True):
            if epoch in history and self._whole(epoch):
                self._forget_from(epoch + 1)
                shutil.copyfile(file, self.checkpoint(epoch + 1))
                return epoch + 1
            file.unlink()
        self._forget_from(0)
        return 0

    def _whole(self, epoch: int) -> bool:
        """Whether the checkpoint of an epoch is written to its end, and no mere start of that epoch."""
        file, before = self.checkpoint(epoch), self.checkpoint(epoch - 1)
        only_a_start = before.is_file() and file.is_file() and filecmp.cmp(file, before, shallow=False)
        return zipfile.is_zipfile(file) and not only_a_start

    def _forget_from(self, epoch: int) -> None:
        """Take out what was noted of epochs that begin anew."""
        kept = [json.dumps(each) for each in self._records() if each.get("epoch") is None or each["epoch"] < epoch]
        if self.results.is_file():
            self.results.write_text("".join(f"{line}\n" for line in kept))
        if scores := self.scores():
            self._keep_scores({number: score for number, score in scores.items() if number < epoch})

    def _checkpoints(self) -> dict[int, Path]:
        if not self.checkpoints.is_dir():
            return {}
        found = {file: _CHECKPOINT.search(file.name) for file in self.checkpoints.iterdir()}
        return {int(match[1]): file for file, match in found.items() if match is not None}

    def _prune(self) -> None:
        """Remove checkpoints that nobody needs any more: all but the best and those of the last two epochs."""
        last, best = max(self.history()), self.best_epoch()
        for epoch, file in self._checkpoints().items():
            if epoch < last - 1 and epoch != best:
                file.unlink(missing_ok=True)

    def _start(self, epochs: int, first: int, say: Progress) -> None:
        """Run MACE up to a number of epochs and follow it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = self.folder / f"{_NAME}.model"
        written.unlink(missing_ok=True)
        threads = {
            name: str(self.settings.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _ENTRY, *self.arguments(epochs)],
                cwd=self.folder,
                env={**os.environ, **threads},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                patient = self._follow(process, first, say)
            finally:
                if process.poll() is None:
                    process.terminate()
                process.wait()
        if not patient:
            return
        if process.returncode != 0 or not written.is_file():
            raise HopflowError(f"The training ended with an error; the end of {self.log} is:\n{self._tail()}")
        written.replace(self.last_model)

    def _follow(self, process: subprocess.Popen[bytes], first: int, say: Progress) -> bool:
        """Tell each epoch when it is finished; False when patience has ended."""
        told = first
        while True:
            running = process.poll() is None
            began = time.perf_counter()
            history = self.history()
            while told in history and self._whole(told):
                self._judge(told)
                say(self._line(told, history[told]))
                self._prune()
                told += 1
            if not running:
                return True
            # an epoch that is noted but has no checkpoint yet must not end the process that is about to write it
            finished = {epoch: each for epoch, each in history.items() if epoch < told}
            if first < told < self.settings.epochs and self._out_of_patience(finished):
                return False
            # notes of a large training are long: reading them must stay a small part of the work
            time.sleep(max(_POLL_S, 20.0 * (time.perf_counter() - began)))

    def _line(self, number: int, epoch: Epoch) -> str:
        return (
            f"epoch {number + 1} of {self.settings.epochs}: validation loss {epoch.loss:.3g}, "
            f"energy {epoch.energy_mae_meV_per_atom:.1f} meV/atom, forces {epoch.force_mae_meV_per_A:.1f} meV/Å, "
            f"{epoch.seconds:.0f} s"
        )

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-_TAIL:])

    def arguments(self, epochs: int) -> list[str]:
        """Arguments of ``mace.cli.run_train``."""
        settings, files = self.settings, self.files
        stress = files.with_stress and settings.stress_weight > 0
        decay = settings.final_learning_rate_share ** (1.0 / max(1, settings.epochs - 1))
        given: dict[str, Any] = {
            "name": _NAME,
            "seed": settings.seed,
            "work_dir": ".",
            "foundation_model": files.foundation,
            "foundation_model_elements": True,
            "train_file": files.train,
            "valid_file": files.validation,
            "E0s": files.reference_energies,
            "loss": "stress" if stress else "weighted",
            "energy_weight": settings.energy_weight,
            "forces_weight": settings.forces_weight,
            "stress_weight": settings.stress_weight if stress else 0.0,
            # a batch that the frames do not fill would be dropped
            "batch_size": min(settings.batch_size, files.training_frames),
            "valid_batch_size": settings.batch_size,
            "lr": settings.learning_rate,
            "scheduler": "ExponentialLR",
            "lr_scheduler_gamma": decay,
            "max_num_epochs": epochs,
            "default_dtype": settings.dtype,
            "device": settings.device.partition(":")[0],
            "error_table": "PerAtomMAE",
            "skip_evaluate_heads": f"{HEAD},pt_head",
            "plot": False,
            "pin_memory": False,
            "multiheads_finetuning": files.replay is not None,
        }
        if settings.against_forgetting == "freeze":
            given["freeze"] = FREEZE_OF_PART[settings.frozen]
        if files.replay is not None:
            # else MACE would set a learning rate of its own
            given |= {"pt_train_file": files.replay, "force_mh_ft_lr": True}
        flags = ["save_all_checkpoints", "restart_latest", "save_cpu"]
        if settings.average_decay > 0:
            flags.append("ema")
            given["ema_decay"] = settings.average_decay
        return [f"--{name}={value}" for name, value in given.items()] + [f"--{flag}" for flag in flags]


def differing(before: dict[str, Any], now: dict[str, Any]) -> Sequence[str]:
    """Names of what two sets of settings do not share."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
