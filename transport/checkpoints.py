"""Checkpoint files: named arrays under a content key, replaced atomically, so that a killed calculation goes on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def content_key(**parts: Any) -> str:
    """SHA-256 over named parts: 64 hexadecimal digits that change when any part does.

    Parameters
    ----------
    **parts
        Arrays (compared to 1e-8) or anything that ``json.dumps`` takes.
    """
    digest = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name]
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            # + 0.0 turns -0.0 into 0.0, which would hash differently
            rounded = np.round(value, 8) + 0.0 if value.dtype.kind == "f" else value
            digest.update(repr((rounded.shape, rounded.dtype.str)).encode())
            digest.update(np.ascontiguousarray(rounded).tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


def save_checkpoint(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to ``path`` so that a reader finds either the old file or the whole new one.

    Parameters
    ----------
    path
        File to write; its folder is made if need be.
    key
        Content key of the calculation, see :func:`content_key`.
    arrays
        What to keep. Names must not be ``key``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, key=np.array(key), **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path | None, key: str) -> dict[str, np.ndarray] | None:
    """Arrays of a checkpoint, or None where there is none, it is unreadable, or it belongs to another calculation.

    Parameters
    ----------
    path
        The file, or None.
    key
        Content key that the file must carry.
    """
    if path is None or not Path(path).is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            return {name: archive[name] for name in archive.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        # A file from another program or a broken disk: the calculation starts afresh and replaces it.
        return None
