"""The commands of a campaign's life."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..transport.errors import HopflowError
from . import console
from .cli_answers import AsJson, Name

if TYPE_CHECKING:
    from .campaign import LaunchSummary
    from .database import Database

MaybeName = Annotated[
    str | None, typer.Argument(help="Name of the campaign; all of them when absent.", show_default=False)
]
Workers = Annotated[int, typer.Option(min=1, help="Compute processes, one a core.")]


class JobCategory(StrEnum):
    """Categories that jobs ask for."""

    CPU = "cpu"
    GPU = "gpu"
    DFT = "dft"


Category = Annotated[
    list[JobCategory] | None,
    typer.Option(help="Only take jobs of this category: cpu, gpu or dft. May be given more than once."),
]


def register(app: typer.Typer) -> None:
    """Add the campaign commands to the command line."""
    groups = {
        "Getting started": (demo, init, doctor),
        "Campaigns": (launch, run, status, resume, advance, cancel),
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
    from . import campaign
    from .demo import demo_spec
    from .report import write_report

    console.check_output_file(output)
    with console.opened(context.obj) as database:
        _prepare(database)
        _launch(context, database, demo_spec())
        # A demo that was stopped goes on where it stood.
        campaign.resume(database, "demo")
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
            console.say_wrapped(f"{finding.verdict:6}  ", f"{finding.subject}: {finding.text}")
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
        _launch_dry(context, campaign)
        return
    with console.opened(context.obj) as database:
        _prepare(database)
        _launch(context, database, campaign)
    console.say(f"Next: hopflow run {campaign.name}")


def run(context: typer.Context, name: MaybeName = None, workers: Workers = 2, category: Category = None) -> None:
    """Work on campaigns until nothing is left to do, with a live table."""
    from .ledger import Ledger

    with console.opened(context.obj) as database:
        names = _names(database, name, only_active=True)
        if not names:
            console.say("No campaign has work left; `hopflow launch SPEC` starts one.")
            return
        for each in names:
            if Ledger(database, each).document["state"] == "cancelled":
                raise HopflowError(f"{each} is cancelled; `hopflow resume {each}` takes it up again.")
        _work(database, names, workers, category or [])


def status(context: typer.Context, name: MaybeName = None, as_json: AsJson = False) -> None:
    """Count the candidates of a campaign at every stage."""
    from .ledger import Ledger
    from .overview import overview
    from .terminal import funnel_table

    with console.opened(context.obj, read_only=True) as database:
        found = [overview(Ledger(database, each)) for each in _names(database, name)]
        description = database.description
    if as_json:
        data: Any = [each.as_dict() for each in found]
        console.print_json(data[0] if name is not None else data)
        return
    if not found:
        console.say(f"The {description} has no campaign yet; `hopflow launch SPEC` starts one.")
    for each in found:
        console.show(funnel_table(each))
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

    _check_pattern(error_match)
    with console.opened(context.obj) as database:
        found = campaign.resume(database, name, retry_failed=retry_failed or bool(error_match), error_match=error_match)
        console.say(
            f"{name}: {count_of(found.lost, 'lost job')} and {count_of(found.fizzled, 'broken job')} to run again, "
            f"{count_of(found.retried, 'failed candidate')} to try again, "
            f"{count_of(found.workflows_added, 'workflow')} added."
        )
        if run_jobs:
            _work(database, [name], workers, category or [])


def advance(context: typer.Context, name: Name) -> None:
    """Share out budgets that are due and add jobs that are missing, once."""
    from . import campaign

    with console.opened(context.obj) as database:
        step = campaign.advance(database, name)
    shared = f"budgets shared out: {', '.join(step.budgets_shared)}" if step.budgets_shared else "no budget was due"
    added = count_of(step.workflows_added, "workflow")
    console.say(f"{name}: {shared}; {added} added; {'finished' if step.finished else 'not finished'}.")


def cancel(context: typer.Context, name: Name) -> None:
    """Stop a campaign; results stay, and `hopflow resume` takes it up again."""
    from . import campaign
    from .ledger import Ledger

    with console.opened(context.obj) as database:
        if Ledger(database, name).document["state"] == "done":
            console.say(f"{name} is done; there is nothing to cancel.")
            return
        count = campaign.cancel(database, name)
    console.say(f"{name} is cancelled; {count_of(count, 'workflow')} had work left.")


def _prepare(database: Database) -> None:
    """Make every index that is missing, so that nobody forgets `hopflow init`."""
    from .database import create_indexes

    create_indexes(database)


def _launch(context: typer.Context, database: Database, spec: Any) -> None:
    from . import campaign

    home = context.obj.home
    # Only a campaign that is stored already goes on from its frozen snapshot; a new one sees the files as they are.
    new = database.campaigns.find_one({"_id": spec.name}, {"_id": 1}) is None
    intake = campaign.resolve(spec, home, progress=_show_progress, fresh=new)
    summary = campaign.launch(database, spec, intake, home)
    if summary.already_launched:
        missing = (
            count_of(summary.workflows, "missing workflow") + " added" if summary.workflows else "nothing is missing"
        )
        console.say(f"{spec.name} was launched before; {missing}.")
    else:
        console.say(_launched(summary, "entered"))


def _launch_dry(context: typer.Context, spec: Any) -> None:
    """Say what a launch would do, and leave no trace: not even the snapshot that a launch freezes."""
    from tempfile import TemporaryDirectory

    from . import campaign

    with console.opened(context.obj, read_only=True) as database:
        found = database.campaigns.find_one({"_id": spec.name}, {"spec_hash": 1})
    if found is not None and found["spec_hash"] == spec.digest():
        console.say(f"{spec.name} was launched before; launching it again would only add what is missing.")
        return
    if found is not None:
        raise HopflowError(
            f"A campaign {spec.name!r} with other settings is in the database already; give this one another name."
        )
    with TemporaryDirectory(prefix="hopflow-") as folder:
        intake = campaign.resolve(spec, Path(folder), progress=_show_progress)
        console.say(_launched(campaign.launch(None, spec, intake, Path(folder), dry_run=True), "would enter"))


def _launched(summary: LaunchSummary, verb: str) -> str:
    fates = ", ".join(f"{count} {fate.replace('_', ' ')}" for fate, count in sorted(summary.fates.items()))
    return (
        f"{summary.campaign}: {count_of(summary.candidates, 'candidate')} ({fates}); {summary.entered} {verb} "
        f"the funnel in {count_of(summary.workflows, 'workflow')}, {summary.rejected} rejected and {summary.failed} "
        "failed at intake."
    )


def count_of(number: int, thing: str) -> str:
    """Write a number and what it counts."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _check_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise typer.BadParameter(f"{pattern!r} is not a regular expression: {error}.") from error


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


def _work(database: Database, names: list[str], workers: int, categories: Sequence[str]) -> None:
    from .live import LiveTable

    try:
        with LiveTable(database, names, workers) as table:
            from .launcher import Launcher

            launcher = Launcher(database, names, workers, [str(each) for each in categories], on_change=table.refresh)
            launcher.run()
    except KeyboardInterrupt:
        console.complain(
            "Stopped; " + " and ".join(f"`hopflow resume {name}`" for name in names) + " goes on from here."
        )
        raise typer.Exit(1) from None
    for name in names:
        _print_outcome(database, name)
    for line in launcher.jobs_failed:
        console.complain(f"a job broke: {line}")
    left = [name for name in names if not _explain_rest(database, name)]
    if left or launcher.jobs_failed:
        raise typer.Exit(1)


def _explain_rest(database: Database, name: str) -> bool:
    """Say what a campaign still waits for; false when that needs a repair."""
    from .ledger import Ledger

    ledger = Ledger(database, name)
    if ledger.document["state"] == "cancelled":
        console.complain(f"{name} is cancelled; `hopflow resume {name}` takes it up again.")
        return True
    states = {job["fw_id"]: job["state"] for jobs in ledger.in_flight().values() for job in jobs}
    held = sum(state in ("RUNNING", "RESERVED") for state in states.values())
    broken = sum(state == "FIZZLED" for state in states.values())
    waiting = len(states) - held - broken
    repair = f"`hopflow resume {name}` runs"
    if waiting:
        console.complain(f"{name}: {count_of(waiting, 'job')} left for a launcher of another category.")
    # The embedded database has one launcher at a time, so that nobody can be at work on these.
    lost = held if database.kind == "embedded" else 0
    if lost:
        console.complain(f"{name}: {count_of(lost, 'job')} lost by a launcher that was stopped; {repair} them again.")
    elif held:
        console.complain(
            f"{name}: {count_of(held, 'job')} in the hands of another launcher; should it be gone, {repair} them again."
        )
    if broken:
        console.complain(f"{name}: {count_of(broken, 'job')} broken; {repair} them again.")
    return not lost and not broken


OUTCOME_ROWS = 30
"""Candidates that `hopflow run` lists at its end."""


def _print_outcome(database: Database, name: str) -> None:
    from .overview import overview
    from .query import find
    from .terminal import farthest_first, funnel_table, outcome_table

    ledger, rows = find(database, name)
    shown = farthest_first(rows, ledger.stages)[:OUTCOME_ROWS]
    table = outcome_table(shown, ledger.stages, "\ncandidates, the farthest first; barriers in eV")
    console.show(funnel_table(overview(ledger)), table)
    if len(rows) > len(shown):
        console.say(f"{len(rows) - len(shown)} more: `hopflow query {name}` lists them all.")
