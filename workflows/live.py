"""What `hopflow run` shows while it works: a live funnel table on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from .ledger import Ledger
from .overview import overview
from .terminal import funnel_table, progress_line

if TYPE_CHECKING:
    from .database import Database

QUIET_SECONDS = 300.0
"""A log gets a line after so long even when no count has changed, so that it shows that work goes on."""


class LiveTable:
    """Shows the funnel while it runs: in place on a terminal, elsewhere as short lines on the error stream.

    Parameters
    ----------
    database
        The open database.
    campaigns
        Names of the campaigns.
    workers
        Compute processes, for the time left.
    every_seconds
        Least time between two drawings of the table.
    line_every_seconds
        Least time between two lines of a log; a line is only written when a count has changed.
    """

    def __init__(
        self,
        database: Database,
        campaigns: list[str],
        workers: int,
        every_seconds: float = 1.0,
        line_every_seconds: float = 10.0,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._database, self._campaigns, self._workers = database, campaigns, workers
        console = Console()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._every = every_seconds if self._live is not None else line_every_seconds
        self._drawn: float | None = None
        self._lines: dict[str, tuple[str, float]] = {}

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
        """Draw the table again, or write a line, unless that was done just now."""
        if self._drawn is not None and time.monotonic() - self._drawn < self._every:
            return
        counted = [overview(Ledger(self._database, name), self._workers) for name in self._campaigns]
        if self._live is not None:
            from rich.console import Group

            self._live.update(Group(*(funnel_table(each) for each in counted)), refresh=True)
        else:
            for each in counted:
                self._write(each.campaign, progress_line(each))
        # Counting a large campaign takes time of its own; the table must never be what the launcher does most.
        self._drawn = time.monotonic()

    def _write(self, campaign: str, line: str) -> None:
        last, since = self._lines.get(campaign, ("", 0.0))
        now = time.monotonic()
        if line == last and now - since < QUIET_SECONDS:
            return
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()
        self._lines[campaign] = (line, now)
