"""The live funnel table of `hopflow run`."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from .ledger import Ledger
from .overview import overview
from .terminal import funnel_table

if TYPE_CHECKING:
    from .database import Database


class LiveTable:
    """Shows the funnel while it runs; on a terminal in place, elsewhere not at all.

    Parameters
    ----------
    database
        The open database.
    campaigns
        Names of the campaigns.
    workers
        Compute processes, for the time left.
    every_seconds
        Least time between two drawings.
    """

    def __init__(self, database: Database, campaigns: list[str], workers: int, every_seconds: float = 1.0) -> None:
        from rich.console import Console
        from rich.live import Live

        self._database, self._campaigns, self._workers = database, campaigns, workers
        self._every = every_seconds
        self._drawn = 0.0
        console = Console()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def refresh(self) -> None:
        """Draw the table again unless that was done just now."""
        if self._live is None or time.monotonic() - self._drawn < self._every:
            return
        from rich.console import Group

        tables = [funnel_table(overview(Ledger(self._database, name), self._workers)) for name in self._campaigns]
        self._live.update(Group(*tables), refresh=True)
        # Counting a large campaign takes time of its own; the table must never be what the launcher does most.
        self._drawn = time.monotonic()
