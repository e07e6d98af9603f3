"""A compute process: runs one job at a time and reaches the database only through the launcher that started it.

Jobs run exactly as FireWorks would run them (``JobFiretask.run_task``); only the job store behind them is a pipe.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from maggma.core import Store
from maggma.core.store import Sort


class PipeStore(Store):
    """A maggma store whose reads and writes are done by the process at the other end of a pipe.

    Parameters
    ----------
    connection
        The pipe to the launcher.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(key="uuid")
        self._connection = connection

    def _ask(self, request: str, **arguments: Any) -> Any:
        # By name: the stores at the other end have further arguments in between (MongoStore.query has a hint).
        self._connection.send((request, arguments))
        kind, answer = self._connection.recv()
        if kind == "error":
            raise RuntimeError(f"The launcher could not reach the database: {answer}")
        return answer

    @property
    def _collection(self) -> Any:
        raise NotImplementedError("The store lies in another process; use its methods.")

    @property
    def name(self) -> str:
        """Name of the store."""
        return "pipe://launcher"

    def connect(self, force_reset: bool = False) -> None:
        """Do nothing; the launcher is connected."""

    def close(self) -> None:
        """Do nothing; the launcher closes its own connection."""

    def count(self, criteria: dict | None = None) -> int:
        """Count documents."""
        return self._ask("count", criteria=criteria)

    def query(
        self,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: dict[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[dict]:
        """Find documents."""
        yield from self._ask("query", criteria=criteria, properties=properties, sort=sort, skip=skip, limit=limit)

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Replace or add documents."""
        self._ask("update", docs=docs, key=key)

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Make an index."""
        return self._ask("ensure_index", key=key, unique=unique)

    def groupby(self, *args: Any, **kwargs: Any) -> Iterator[tuple[dict, list[dict]]]:
        """Refuse: no job needs it."""
        raise NotImplementedError("Jobs in a compute process cannot group documents.")

    def remove_docs(self, criteria: dict) -> None:
        """Remove documents."""
        self._ask("remove_docs", criteria=criteria)


def work(connection: Connection, parent: int) -> None:
    """Serve jobs until the launcher hangs up.

    Parameters
    ----------
    connection
        Pipe to the launcher; it sends ``(task, spec)`` as dictionaries and gets ``("done", action)`` or
        ``("failed", text)`` back.
    parent
        Process id of the launcher; when it is gone, the worker ends at once, so that a resumed campaign never meets
        a worker of the one that was killed.
    """
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import jobflow
    from fireworks.core.firework import Firework
    from jobflow import JobStore

    jobflow.SETTINGS.JOB_STORE = JobStore(PipeStore(connection))
    _quiet()
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        if message is None:
            return
        firework = Firework.from_dict(message)
        try:
            task = firework.tasks[0]
            task.fw_id = firework.fw_id
            action = task.run_task(firework.spec)
            connection.send(("done", action.to_dict()))
        except Exception as error:  # noqa: BLE001  the launcher marks the job as fizzled and keeps the text
            connection.send(("failed", (f"{type(error).__name__}: {error}", traceback.format_exc())))


def _quiet() -> None:
    """Keep libraries from writing over the launcher's table."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    # jobflow sets its own logger's level anew in every job, so that only the global switch holds.
    logging.disable(logging.INFO)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
