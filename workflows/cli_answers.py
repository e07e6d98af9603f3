"""The commands that ask a campaign what came out: which candidates, why one was lost, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Name of the campaign.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands that answer questions to the command line."""
    for command in (query, why, report):
        app.command(rich_help_panel="Answers")(command)


def query(
    context: typer.Context,
    name: Name,
    stage: Annotated[str | None, typer.Option(help="Stage whose status and value are asked for.")] = None,
    wanted: Annotated[str | None, typer.Option("--status", help="Only candidates of this status at the stage.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="Sort by material_id, formula, value, uncertainty, seconds or a stage's name; `-` in front reverses."
        ),
    ] = "material_id",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """List candidates with what every stage found."""
    from .query import csv_text, find
    from .terminal import outcome_table, stage_table

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both.")
    with console.opened(context.obj, read_only=True) as database:
        ledger, rows = find(database, name, stage=stage, status=wanted, sort=sort)
        stages = ledger.stages
    if as_json:
        console.print_json(rows)
    elif as_csv:
        console.say(csv_text(rows, stages).rstrip("\n"))
    elif not rows:
        console.say(f"No candidate of {name} matches.")
    else:
        console.show(stage_table(rows, stage) if stage is not None else outcome_table(rows, stages))


def why(
    context: typer.Context,
    name: Name,
    material: Annotated[str, typer.Argument(help="Id of the material, as asked for or as found.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell where a material went, and why."""
    from .ledger import Ledger
    from .overview import history
    from .terminal import story

    with console.opened(context.obj, read_only=True) as database:
        ledger = Ledger(database, name)
        row = ledger.row(material)
        steps = history(ledger, row)
    if as_json:
        row.pop("_id")
        console.print_json({**row, "history": [{"stage": stage, **entry} for stage, entry in steps]})
    else:
        for lead, text in story(row, steps, ledger.stages):
            console.say_wrapped(lead, text)


def report(
    context: typer.Context,
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write the campaign's report as one HTML file."""
    from .report import write_report

    console.check_output_file(output)
    with console.opened(context.obj, read_only=True) as database:
        write_report(database, name, output)
    console.say(f"The report is in {output.absolute()}")
