"""Heads of pseudopotential files, enough for what reads them and for the program that stands in for ``pw.x``."""

from __future__ import annotations

from pathlib import Path

VALENCE = {"Li": 3.0, "Cl": 7.0, "F": 7.0, "Fe": 16.0}


def write_upf(folder: Path, element: str, functional: str = "PBE", name: str | None = None) -> Path:
    file = folder / (name or f"{element}.upf")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(
        '<UPF version="2.0.1">\n<PP_HEADER\ngenerated="by a test"\n'
        f'element="{element}"\nfunctional="{functional}"\nz_valence="    {VALENCE[element]:.2f}"\n/>\n</UPF>\n'
    )
    return file
