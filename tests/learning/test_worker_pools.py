"""Processes that compute: one thread each, gone when their parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hopflow.learning.worker_pools import worker_pool

_ENDLESS = """
import os, sys, time
from pathlib import Path
from hopflow.learning.worker_pools import worker_pool

def sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(sleep, [sys.argv[1]] * 2))
"""


def test_each_process_has_one_thread() -> None:
    import torch

    with worker_pool(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


@pytest.mark.skipif(sys.platform == "win32", reason="kill is a signal")
def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    script, folder = tmp_path / "endless.py", tmp_path / "pids"
    script.write_text(_ENDLESS)
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder)])
    try:
        _wait(lambda: len(list(folder.iterdir())) == 2)
        children = [int(file.name) for file in folder.iterdir()]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait(lambda: not any(_alive(child) for child in children))
    finally:
        parent.kill()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def _wait(holds) -> None:
    until = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.1)
