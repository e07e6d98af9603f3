"""Run mypy over the package. The repository root is the package, so mypy is shown it under its import name."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("transport", "potentials", "learning", "makers", "flows", "workflows")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hopflow").symlink_to(ROOT, target_is_directory=True)
        packages = [word for floor in FLOORS for word in ("-p", f"hopflow.{floor}")]
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *packages]
        cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
        # Without site-packages on the path an editable install would be seen twice.
        return subprocess.call([*command, *cache], cwd=folder, env={**os.environ, "MYPYPATH": folder})


if __name__ == "__main__":
    sys.exit(main())
