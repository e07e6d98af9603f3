#!/usr/bin/env bash
# Installs hopflow with its test tools into .venv and runs every check: format, lint, types, docs, tests.
#
#   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

python=${PYTHON:-python3.11}
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch first and exactly: whatever comes later then takes this build.
.venv/bin/python -c 'import torch' 2>/dev/null || .venv/bin/pip install -q "$(grep '^torch==' constraints.txt)"
.venv/bin/pip install -q -c constraints.txt -e '.[test,docs]'

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/python tests/typecheck.py
.venv/bin/mkdocs build --strict --quiet --site-dir build/site
.venv/bin/python -m pytest -n "${HOPFLOW_TEST_WORKERS:-2}" "$@"
