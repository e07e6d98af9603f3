"""A place for the campaigns of a test: a folder, a database, and the command line that works there."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hopflow.workflows.database import Database, open_database

MONGO_URI = os.environ.get("HOPFLOW_TEST_MONGO_URI", "")
DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo"


@dataclass
class Place:
    """Where a test's campaigns live, and the command line that works there."""

    folder: Path
    uri: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / ".hopflow"

    @property
    def target(self) -> Any:
        return self.uri or self.home

    def open(self, read_only: bool = False) -> Database:
        return open_database(self.target, read_only=read_only)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "hopflow", "--home", str(self.home), *words]

    def env(self) -> dict[str, str]:
        chosen = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        for name in ("HOPFLOW_LAUNCHPAD", "HOPFLOW_DATABASE", "HOPFLOW_HOME"):
            chosen.pop(name, None)
        if self.uri is not None:
            chosen["HOPFLOW_DATABASE"] = self.uri
        return chosen

    def run(self, *words: str, ok: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.env(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == ok, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
