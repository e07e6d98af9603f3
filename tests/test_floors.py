"""The floors of the house: a module imports only from floors below its own, and relatively."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "transport": set(),
    "potentials": {"transport"},
    "learning": {"transport"},
    "makers": {"transport", "potentials", "learning"},
    "flows": {"transport", "potentials", "learning", "makers"},
    "workflows": {"transport", "potentials", "learning", "makers", "flows"},
}
FORBIDDEN = {
    "transport": {"jobflow", "fireworks", "pymongo", "maggma", "torch", "mace", "matgl", "pydantic"},
    "potentials": {"jobflow", "fireworks", "pymongo", "maggma"},
    "learning": {"jobflow", "fireworks", "pymongo", "maggma"},
    "flows": {"fireworks", "pymongo"},
    "makers": {"fireworks", "pymongo"},
}
MODULES = sorted(path for floor in BELOW for path in (ROOT / floor).rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
        elif isinstance(node, ast.Import):
            found.extend((0, alias.name) for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_from_below(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    for level, module in imports(path):
        top = module.split(".")[0]
        if level == 2 and top in BELOW:
            assert top in BELOW[floor], f"{path} imports from {top}"
        if level == 0:
            assert top != "hopflow", f"{path} imports {module} absolutely"
            assert top not in FORBIDDEN.get(floor, set()), f"{path} imports {module}"


def test_every_floor_has_modules() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(BELOW)
