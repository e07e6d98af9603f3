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
    ]
    if as_json:
        console.print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("name", "family", "licence", "weights here", "description"):
        table.add_column(column)
    for row in rows:
        here = "yes" if row["on_this_machine"] else "no"
        table.add_row(row["name"], row["family"], row["licence"], here, row["description"])
    Console().print(table)


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of potentials.", show_default=False)],
    path: Annotated[Path | None, typer.Option(help="Take the weights from this file or folder.")] = None,
) -> None:
    """Get the weights of potentials and check them."""
    from ..potentials.registry import fetch_weights

    for name in names:
        place = fetch_weights(name, path=path, progress=True)
        console.say(f"{name}: {place}")
