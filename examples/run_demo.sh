#!/usr/bin/env bash
# Installs hopflow into .venv and runs the demo campaign.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch first and exactly: whatever comes later then takes this build.
.venv/bin/python -c 'import torch' 2>/dev/null || .venv/bin/pip install "$(grep '^torch==' constraints.txt)"
.venv/bin/pip install -c constraints.txt -e .
exec .venv/bin/hopflow demo "$@"
