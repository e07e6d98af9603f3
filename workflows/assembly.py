"""From the specification to the funnel that the jobs carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..flows.funnel import LEVELS, Funnel, FunnelStage
from ..flows.gate import Gate

if TYPE_CHECKING:
    from ..makers.settings import StageSettings
    from ..makers.stage import StageMaker
    from .spec import CampaignSpec


def stage_maker(stage: str, ion: str, settings: StageSettings | None = None) -> StageMaker:
    """Return the Maker of a stage.

    Parameters
    ----------
    stage
        ``bvse``, ``gnn``, ``pes``, ``neb`` or ``dft``.
    ion
        Element symbol of the mobile ion.
    settings
        The stage's settings; its defaults when absent.
    """
    from ..makers.bvse import BondValenceMaker
    from ..makers.dft import HandoffMaker
    from ..makers.dft_band import DftBandMaker
    from ..makers.gnn import HopBarrierMaker
    from ..makers.neb import BandMaker
    from ..makers.pes import LandscapeMaker

    makers: tuple[type[StageMaker], ...] = (BondValenceMaker, HopBarrierMaker, LandscapeMaker, BandMaker, HandoffMaker)
    maker = {m.stage: m for m in makers}[stage]
    if maker is HandoffMaker and getattr(settings, "engine", "vasp") != "vasp":
        maker = DftBandMaker
    return maker(ion=ion) if settings is None else maker(ion=ion, settings=settings)


def build_funnel(spec: CampaignSpec, home: Path, diaries: str = "") -> Funnel:
    """Build a campaign's funnel.

    Parameters
    ----------
    spec
        The campaign.
    home
        Folder that receives checkpoints and hand-offs.
    diaries
        Name of the folder among the checkpoints where the campaign's jobs keep their diaries; none keeps one when
        empty.
    """
    chosen = spec.stages.chosen()
    levels = []
    for names in LEVELS:
        level = []
        for name in names:
            if name not in chosen:
                continue
            settings = spec.settings_of(name)
            if name == "dft":
                folder = home / settings.folder / spec.name  # type: ignore[attr-defined]
                settings = settings.model_copy(update={"folder": str(folder)})
            gate = chosen[name].gate
            level.append(
                FunnelStage(
                    maker=stage_maker(name, spec.ion, settings),
                    gate=Gate(chosen[name].gate_quantity(), maximum=gate.max, minimum=gate.min, top=gate.top),
                )
            )
        if level:
            levels.append(level)
    checkpoints = home / "checkpoints"
    diary_folder = str(checkpoints / "jobs" / diaries) if diaries else ""
    return Funnel(spec.name, levels, str(checkpoints), spec.priority, diary_folder)
