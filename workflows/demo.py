"""The demo campaign: known conductors, moderate and poor, through the whole funnel."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from .spec import CampaignSpec, read_spec


def demo_spec() -> CampaignSpec:
    """Read the demo's campaign file, which ships with the package."""
    with as_file(files("hopflow.examples") / "demo.yaml") as path:
        return read_spec(Path(path))
