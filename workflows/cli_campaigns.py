"""The commands of a campaign's life."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    from .database import Database

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Name of the campaign.", show_default=False)]
MaybeName = Annotated[
    str | None, typer.Argument(help="Name of the campaign; all of them when absent.", show_default=False)
]
Workers = Annotated[int, typer.Option(min=1, help="Compute processes, one a core.")]
Category = Annotated[
    list[str] | None,
    typer.Option(help="Only take jobs of this category: cpu, gpu or dft. May be given more than once."),
]


def register(app: typer.Typer) -> None:
    """Add the campaign commands to the command line."""
    groups = {
        "Getting started": (demo, init, doctor),
        "Campaigns": (launch, run, status, resume, advance, cancel),
        "Answers": (query, why, report),
    }
    for panel, commands in groups.items():
        for command in commands:
            app.command(rich_help_panel=panel)(command)


def demo(
    context: typer.Context,
    workers: Workers = 2,
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML report.")] = Path("hopflow-demo.html"),
) -> None:
    """Screen known conductors through the whole funnel, here and now."""
    from .demo import demo_spec
    from .report import write_report

    with console.opened(context.obj) as database:
        _prepare(database)
        _launch(context, database, demo_spec())
        try:
            _work(database, ["demo"], workers, [])
        finally:
            write_report(database, "demo", output)
    console.say(f"The report is in {output.absolute()}")


def init(context: typer.Context) -> None:
    """Make the database ready: every index of launchpad, job store and ledger."""
    from .database import create_indexes

    with console.opened(context.obj) as database:
        create_indexes(database)
        console.say(f"The {database.description} is ready; every index is in place.")


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Say what works on this machine and what does not."""
    from .doctor import examine

    findings = examine(context.obj)
    if as_json:
        console.print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            console.say(f"{finding.verdict:8} {finding.subject}: {finding.text}")
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


def launch(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(help="The campaign file (YAML).", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be launched.")] = False,
) -> None:
    """Read a campaign file, find its materials and add the first jobs."""
    from .spec import read_spec

    campaign = read_spec(spec)
    if dry_run:
        _launch(context, None, campaign)
        return
    with console.opened(context.obj) as database:
        _prepare(database)
        _launch(context, database, campaign)
    console.say(f"Next: hopflow run {campaign.name}")


def run(context: typer.Context, name: MaybeName = None, workers: Workers = 2, category: Category = None) -> None:
    """Work on campaigns until nothing is left to do, with a live table."""
    with console.opened(context.obj) as database:
        names = _names(database, name, only_active=True)
        if not names:
            console.say("No campaign has work left; `hopflow launch SPEC` starts one.")
            return
        _work(database, names, workers, category or [])


def status(context: typer.Context, name: MaybeName = None, as_json: AsJson = False) -> None:
    """Count the candidates of a campaign at every stage."""
    from .ledger import Ledger
    from .overview import overview
    from .terminal import funnel_table

    with console.opened(context.obj, read_only=True) as database:
        found = [overview(Ledger(database, each)) for each in _names(database, name)]
    if as_json:
        data: Any = [each.as_dict() for each in found]
        console.print_json(data[0] if name is not None else data)
        return
    if not found:
        console.say("The database has no campaign yet; `hopflow launch SPEC` starts one.")
    for each in found:
        _rich().print(funnel_table(each))
        for line in each.broken_jobs:
            console.say(f"broken job: {line}  (`hopflow resume {each.campaign}` runs it again)")


def resume(
    context: typer.Context,
    name: Name,
    workers: Workers = 2,
    category: Category = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed candidates again, too.")] = False,
    error_match: Annotated[
        str | None, typer.Option(help="Only those whose class, reason or message matches this regular expression.")
    ] = None,
    run_jobs: Annotated[bool, typer.Option("--run/--no-run", help="Go on working after the repair.")] = True,
) -> None:
    """Repair a campaign after a crash and go on: lost and broken jobs run again, stored results are kept."""
    from . import campaign

    with console.opened(context.obj) as database:
        found = campaign.resume(database, name, retry_failed=retry_failed or bool(error_match), error_match=error_match)
        console.say(
            f"{found.lost} lost and {found.fizzled} broken jobs run again, {found.retried} failed candidates are tried "
            f"again, {found.workflows_added} workflows were missing."
        )
        if run_jobs:
            _work(database, [name], workers, category or [])


def advance(context: typer.Context, name: Name) -> None:
    """Share out budgets that are due and add jobs that are missing, once."""
    from . import campaign

    with console.opened(context.obj) as database:
        step = campaign.advance(database, name)
    shared = f"budgets shared out: {', '.join(step.budgets_shared)}" if step.budgets_shared else "no budget was due"
    console.say(f"{shared}; {step.workflows_added} workflows added; {'finished' if step.finished else 'not finished'}.")


def cancel(context: typer.Context, name: Name) -> None:
    """Stop a campaign; results stay, and `hopflow resume` takes it up again."""
    from . import campaign

    with console.opened(context.obj) as database:
        count = campaign.cancel(database, name)
    console.say(f"{name} is cancelled; {count} workflows were waiting.")


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
    from .query import csv_text, find, flat

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both.")
    with console.opened(context.obj, read_only=True) as database:
        ledger, rows = find(database, name, stage=stage, status=wanted, sort=sort)
        stages = ledger.stages
    if as_json:
        console.print_json(rows)
    elif as_csv:
        console.say(csv_text(rows, stages).rstrip("\n"))
    else:
        from rich.table import Table

        table = Table()
        lines = [flat(row, stages) for row in rows]
        columns = ["material_id", "formula"] + [f"{s}_{what}" for s in stages for what in ("status", "value")]
        for column in columns:
            table.add_column(column.replace("_", " "))
        for line in lines:
            table.add_row(*(_cell(line.get(column)) for column in columns))
        _rich().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


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
        console.print_json({**row, "history": [{"stage": stage, **entry} for stage, entry in steps]})
    else:
        console.say("\n".join(story(row, steps)))


def report(
    context: typer.Context,
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write the campaign's report as one HTML file."""
    from .report import write_report

    with console.opened(context.obj, read_only=True) as database:
        write_report(database, name, output)
    console.say(f"The report is in {output.absolute()}")


def _prepare(database: Database) -> None:
    """Make every index that is missing, so that nobody forgets `hopflow init`."""
    from .database import create_indexes

    create_indexes(database)


def _launch(context: typer.Context, database: Database | None, spec: Any) -> None:
    from . import campaign

    home = context.obj.home
    found = campaign.resolve(spec, home, progress=_show_progress)
    summary = campaign.launch(database, spec, found, home, dry_run=database is None)
    if summary.already_launched:
        console.say(f"{spec.name} was launched before; {summary.workflows} missing workflows were added.")
        return
    verb = "would enter" if database is None else "entered"
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(summary.fates.items()))
    console.say(
        f"{spec.name}: {summary.candidates} candidates ({fates}); {summary.entered} {verb} the funnel in "
        f"{summary.workflows} workflows, {summary.rejected} rejected and {summary.failed} failed at intake."
    )


def _show_progress(done: int, total: int) -> None:
    """Say on the error stream how many materials have been asked for."""
    sys.stderr.write(f"\rMaterials Project: {done} of {total} materials" + ("\n" if done >= total else ""))
    sys.stderr.flush()


def _names(database: Database, name: str | None, only_active: bool = False) -> list[str]:
    if name is not None:
        from .ledger import Ledger

        return [Ledger(database, name).campaign]
    rows = database.campaigns.find({"state": {"$in": ["active", "launching"]}} if only_active else {}, {"_id": 1})
    return sorted(row["_id"] for row in rows)


def _work(database: Database, names: list[str], workers: int, categories: list[str]) -> None:
    from .live import LiveTable

    with LiveTable(database, names, workers) as table:
        from .launcher import Launcher

        launcher = Launcher(database, names, workers, categories, on_change=table.refresh)
        launcher.run()
    for name in names:
        _print_outcome(database, name)
    for line in launcher.jobs_failed:
        console.complain(f"a job broke: {line}")
    if launcher.jobs_failed:
        console.complain("`hopflow resume NAME` runs broken jobs again.")
        raise typer.Exit(1)


def _print_outcome(database: Database, name: str) -> None:
    from .ledger import Ledger
    from .overview import overview
    from .terminal import funnel_table, outcome_table

    ledger = Ledger(database, name)
    _rich().print(funnel_table(overview(ledger)))
    _rich().print(outcome_table(ledger.rows(), ledger.stages))


def _rich() -> Any:
    from rich.console import Console

    return Console()
