"""Folders that stages leave for people: whole or not at all, those of a path with several hops included."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..transport.errors import HopflowError

MANIFEST = "handoff.json"
"""What a folder of one band says of itself."""


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Give a folder beside the place to write into; it is moved there when everything has been written.

    Parameters
    ----------
    folder
        The place. What is there already is replaced; whether it may be is for the caller to know.

    Yields
    ------
    Path
        The folder to write into; removed where writing fails.
    """
    staging = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def hop_folder_name(hop_id: str) -> str:
    """Name of a hop's folder among those of its path: ``Li0-Li3[0,-1,0]`` has ``Li0-Li3_0_-1_0``."""
    return re.sub(r"[^A-Za-z0-9-]", "_", hop_id.rstrip("]"))


def hop_folders(folder: Path) -> list[Path]:
    """The folders of single bands: this one, or those in it where it holds several hops of a path.

    Parameters
    ----------
    folder
        A folder that the dft stage wrote, or any other.
    """
    if (folder / MANIFEST).is_file() or any(folder.glob("[0-9][0-9]")):
        return [folder]
    places = sorted(place.parent for place in folder.glob(f"*/{MANIFEST}"))
    return [place for place in places if "hops_of_path" in read_manifest(place)["metadata"]] or [folder]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the hand-off wrote into the folder; empty where it holds no hand-off.

    Raises
    ------
    HopflowError
        The file is there and is not what the hand-off writes.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest["metadata"], dict) or not isinstance(manifest["result"]["images"], int):
            raise TypeError("its keys have other types")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HopflowError(
            f"{file} is no record of a hand-off ({error}); restore it, or remove it and name the material."
        ) from error
    return manifest


def is_approx_neb(manifest: dict[str, Any]) -> bool:
    """Whether a record of a hand-off is one of ApproxNEB."""
    return manifest.get("settings", {}).get("method") == "approx_neb"
