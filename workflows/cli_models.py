"""Commands for the weights of machine-learned potentials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer(help="Potentials: what there is, and getting their weights.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the potentials and whether their weights are on this machine."""
    from importlib.util import find_spec

    from ..potentials.calculator_names import NAMED_CALCULATORS
    from ..potentials.registry import list_potentials
    from ..potentials.weights import find_weights

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "family": entry.family,
            "weights_sha256": entry.sha256,
            "licence": entry.licence,
            "on_this_machine": find_weights(entry) is not None,
            "description": entry.description,
            "citation": entry.citation,
        }
        for entry in list_potentials()
    ] + [
        {
            "name": name,
            "family": "calculator",
            # it is made of the weights as they are loaded
            "weights_sha256": None,
            "licence": named.licence,
            "on_this_machine": find_spec(named.calculator.partition(".")[0]) is not None,
            "description": named.description,
            "citation": named.citation,
        }
        for name, named in NAMED_CALCULATORS.items()
    ]
    if as_json:
        console.print_json(rows)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # A name is what `models fetch` is asked with; it is never cut.
    for column in ("name", "licence", "here"):
        table.add_column(column, no_wrap=True)
    table.add_column("description")
    for row in rows:
        here = "yes" if row["on_this_machine"] else "no"
        table.add_row(row["name"], row["licence"], here, escape(row["description"]))
    console.show(table)


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of potentials.", show_default=False)],
    path: Annotated[Path | None, typer.Option(help="Take the weights from this file or folder.")] = None,
) -> None:
    """Get the weights of potentials and check them."""
    from ..potentials.calculator_names import NAMED_CALCULATORS
    from ..potentials.registry import fetch_weights, list_potentials

    known = [entry.name for entry in list_potentials()]
    for name in names:
        if name in NAMED_CALCULATORS:
            extra = NAMED_CALCULATORS[name].extra
            raise typer.BadParameter(f"{name} brings its weights along; pip install 'hopflow[{extra}]' instead.")
        if name not in known:
            raise typer.BadParameter(f"there is no potential called {name!r}; allowed: {', '.join(known)}.")
    if path is not None and len(names) > 1:
        raise typer.BadParameter("--path takes the weights of one potential; give one name.")
    for name in names:
        place = fetch_weights(name, path=path, progress=True)
        console.say(f"{name}: {place}")
