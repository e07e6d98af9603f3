"""Probes of a whole table of paths: what a potential says of each, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..learning.band_probes import ProbeSettings
    from ..transport.energies import SitePotential

_ROWS_A_TASK = 4


def probe_table(
    rows: Sequence[dict[str, Any]],
    settings: ProbeSettings,
    folder: Path,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, str]]:
    """Probe the paths that the folder does not hold yet.

    Parameters
    ----------
    rows
        Rows of a path table.
    settings
        How they are probed.
    folder
        Where probes are kept; a second call takes them from there.
    workers
        Processes, one thread each.
    progress
        Called with a line now and then.

    Returns
    -------
    Of each row that could not be probed its ``path_id``, ``reason`` and ``error``.
    """
    from ..learning.band_probes import probe_rows, stored_probe
    from ..learning.worker_pools import worker_pool
    from ..makers.probing import probing_potential
    from ..transport.errors import CandidateError
    from ..transport.paths import MigrationPath

    say = progress or (lambda _: None)

    def is_stored(row: dict[str, Any]) -> bool:
        try:
            return stored_probe(MigrationPath.from_row(row), settings, folder) is not None
        except CandidateError:
            # probing says what is wrong with it
            return False

    missing = [row for row in rows if not is_stored(row)]
    say(f"{len(rows) - len(missing)} of {len(rows)} paths are probed already")
    if not missing:
        return []
    if workers == 1:
        return probe_rows(missing, probing_potential(settings), settings, folder, say)
    failed, done = [], 0
    parts = [missing[start : start + _ROWS_A_TASK] for start in range(0, len(missing), _ROWS_A_TASK)]
    # the weights are fetched here, so that the processes need not wait for one another
    probing_potential(settings)
    with worker_pool(workers, _start, (settings, folder)) as pool:
        waiting = {pool.submit(_probe_part, part): len(part) for part in parts}
        for future in as_completed(waiting):
            failed += future.result()
            done += waiting[future]
            say(f"{done} of {len(missing)} paths probed")
    return failed


_WORK: list[tuple[SitePotential, ProbeSettings, Path]] = []


def _start(settings: ProbeSettings, folder: Path) -> None:
    """What a process needs for all of its paths."""
    from ..makers.probing import probing_potential

    _WORK[:] = [(probing_potential(settings), settings, folder)]


def _probe_part(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    from ..learning.band_probes import probe_rows

    potential, settings, folder = _WORK[0]
    return probe_rows(rows, potential, settings, folder)
