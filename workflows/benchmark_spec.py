"""What a benchmark campaign is: its paths, and a stage for each potential."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ..flows.funnel import Funnel, FunnelStage
from ..flows.gate import Gate
from ..makers.path_band import PathBandMaker
from ..makers.quantities import Quantity
from ..makers.settings import PathBandSettings
from .spec import NAME_PATTERN

KIND = "band_benchmark"
"""What the document of such a campaign says of itself."""


class BandBenchmarkSpec(BaseModel):
    """A benchmark campaign."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    potentials: list[PathBandSettings] = Field(description="Potential and settings of the bands of each stage.")
    selection: str = Field(description="The rule by which the paths were chosen.")
    path_ids: list[str]

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def benchmark_funnel(spec: BandBenchmarkSpec, home: Path, diaries: str = "") -> Funnel:
    """One level with a stage for each potential; parameters as for :func:`.assembly.build_funnel`."""
    gate = Gate(Quantity.BARRIER_SPAN.value)
    stages = [FunnelStage(maker=PathBandMaker(settings=settings), gate=gate) for settings in spec.potentials]
    checkpoints = home / "checkpoints"
    diary_folder = str(checkpoints / "jobs" / diaries) if diaries else ""
    return Funnel(spec.name, [stages], str(checkpoints), 0, diary_folder)
