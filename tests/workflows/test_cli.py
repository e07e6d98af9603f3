"""The command line as a newcomer meets it: exit codes, clean JSON, sentences for errors, tables that fit."""

import csv
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hopflow.transport.errors import Reason
from hopflow.workflows import cli, console
from hopflow.workflows.live import LiveTable
from hopflow.workflows.overview import Overview, StageCounts
from hopflow.workflows.terminal import duration, funnel_table, outcome_table, progress_line, stage_table, story
from hypothesis import given
from hypothesis import strategies as st
from places import DEMO, Place
from typer.main import get_command

CRYSTALS = ["Li3N", "Li2O", "Li3OCl", "LiF", "LiNbO3", "Li3P"]
COMMANDS = [
    *([name] for name in get_command(cli.app).commands if name != "models"),  # type: ignore[attr-defined]
    ["models", "list"],
    ["models", "fetch"],
]


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Standard output read as strict JSON: no NaN, no infinity, nothing around it."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


Call = Callable[..., Answer]


@contextmanager
def words_of(*words: str) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["hopflow", *words]
    with warnings.catch_warnings():
        try:
            yield
        finally:
            sys.argv = before


@pytest.fixture
def call(campaign: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process, in the folder of the finished campaign."""
    monkeypatch.chdir(campaign.folder)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("HOPFLOW_LAUNCHPAD", "HOPFLOW_DATABASE", "HOPFLOW_HOME"):
        monkeypatch.delenv(name, raising=False)

    def answer(*words: str) -> Answer:
        capsys.readouterr()
        code = 0
        with words_of(*words):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return answer


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished campaign with every kind of fate, launched and run by the real command."""
    place = Place(tmp_path_factory.mktemp("cli"))
    crystals = place.folder / "crystals"
    crystals.mkdir()
    for name in CRYSTALS:
        (crystals / f"{name}.cif").write_text((DEMO / f"{name}.cif").read_text())
    (crystals / "LiF_again.cif").write_text((DEMO / "LiF.cif").read_text())
    (crystals / "broken.cif").write_text("data_nothing\nthis is not a crystal\n")
    (place.folder / "small.yaml").write_text(
        "name: small\nmaterials: {structures: crystals}\nchunk_size: 4\nstages:\n"
        "  bvse: {settings: {spacing_A: 0.5, interstitial_network: never}, gate: {max: 0.9, top: 2}}\n"
    )
    (place.folder / "other.yaml").write_text(
        f"name: other\nmaterials: {{structures: [{DEMO}/Li3N.cif, {DEMO}/Li2O.cif]}}\n"
        "stages: {bvse: {settings: {spacing_A: 0.5}}}\n"
    )
    launched = place.run("launch", "small.yaml")
    assert launched.stdout.splitlines() == [
        "small: 8 candidates (1 duplicate, 6 found, 1 unreadable); 6 entered the funnel in 2 workflows, 0 rejected and "
        "1 failed at intake.",
        "Next: hopflow run small",
    ]
    done = place.run("run", "small", "--workers", "1")
    (place.folder / "run.out").write_text(done.stdout)
    (place.folder / "run.err").write_text(done.stderr)
    return place


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- starting up -------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hopflow.workflows.cli import main\nsys.argv = ['hopflow', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Screen crystals" in done.stdout
    loaded = set(done.stderr.split())
    assert "hopflow" in loaded
    heavy = {
        "torch",
        "numpy",
        "scipy",
        "numba",
        "pymatgen",
        "ase",
        "monty",
        "jobflow",
        "maggma",
        "fireworks",
        "pymongo",
    }
    heavy |= {"mongomock", "pydantic", "pydantic_settings", "mace", "matgl", "torch_geometric", "plotly", "jinja2"}
    assert not loaded & (heavy | {"yaml", "requests", "mp_api"})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help(words: list[str], call: Call) -> None:
    found = call(*words, "--help")
    assert (found.code, found.err) == (0, "")
    assert f"hopflow {' '.join(words)}" in found.out
    assert max(map(len, found.out.splitlines())) <= 80


def test_version_and_bare_call(call: Call) -> None:
    from hopflow import __version__

    assert call("--version").out == __version__ + "\n"
    assert "Campaigns" in call().out


# -- wrong use is 2, failure is 1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense"),
        (["launch"], "Missing argument"),
        (["launch", "absent.yaml"], "absent.yaml cannot be read"),
        (["run", "small", "--category", "mainframe"], "mainframe"),
        (["run", "small", "--workers", "0"], "greater than or equal to 1"),
        (["query", "small", "--stage", "gnn"], "no stage 'gnn'; allowed: intake, bvse"),
        (["query", "small", "--status", "lost"], "no status 'lost'; allowed: pending"),
        (["query", "small", "--sort", "price"], "sorted by 'price'; allowed: material_id"),
        (["query", "small", "--sort", "value"], "needs --stage"),
        (["query", "small", "--csv", "--json"], "not both"),
        (["resume", "small", "--error-match", "["], "not a regular expression"),
        (["report", "small", "-o", "crystals"], "crystals is a folder"),
        (["demo", "-o", "crystals"], "crystals is a folder"),
        (["bvse"], "Missing argument"),
        (["bvse", "crystals/LiF.cif", "--ion", "Xx"], "'Xx' is no mobile ion"),
        (["bvse", "crystals/LiF.cif", "--set", "spacing=1"], "no setting 'spacing'"),
        (["bvse", "crystals/LiF.cif", "--set", "spacing_A"], "KEY=VALUE"),
        (["bvse", "crystals/LiF.cif", "--set", "spacing_A=wide"], "valid number"),
        (["bvse", "crystals/LiF.cif", "--set", "spacing_A={"], "is not a value"),
        (["bvse", "crystals/LiF.cif", "--interstitial-network", "sometimes"], "missing_parameters"),
        (["bvse", "crystals/LiF.cif", "--oxidation-states", "Li"], "not a list like"),
        (["neb", "crystals/LiF.cif", "crystals/Li3N.cif", "--band", "b.xyz"], "give one file"),
        (["neb", "crystals/LiF.cif", "--band", "crystals"], "crystals is a folder"),
        (["models", "fetch", "unheard-of"], "no potential called"),
        (["models", "fetch", "chgnet-0.3.0"], "brings its weights along"),
        (["models", "fetch", "mace-mp-0-small", "m3gnet-mp-2021.2.8-direct", "--path", "x"], "give one name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(words: list[str], said: str, call: Call) -> None:
    found = call(*words)
    assert (found.code, found.out) == (2, "")
    told = " ".join(found.err.replace("│", " ").split())
    assert said in told
    assert "Traceback" not in told


def test_a_wrong_campaign_file_names_line_and_key(call: Call, campaign: Place) -> None:
    (campaign.folder / "wrong.yaml").write_text("name: wrong\nmaterials: {structures: crystals}\nstages: {bvs: }\n")
    found = call("launch", "wrong.yaml")
    assert found.code == 2
    assert "line 3: stages.bvs: unknown key; allowed here: bvse, gnn, pes, neb, dft" in found.err


@pytest.mark.parametrize(
    "words",
    [
        ["status", "nix"],
        ["status", "nix", "--json"],
        ["run", "nix"],
        ["resume", "nix"],
        ["advance", "nix"],
        ["cancel", "nix"],
        ["query", "nix"],
        ["why", "nix", "LiF"],
        ["report", "nix", "-o", "nix.html"],
    ],
    ids=" ".join,
)
def test_an_unknown_campaign_is_one_sentence(words: list[str], call: Call, campaign: Place) -> None:
    found = call(*words)
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("hopflow: The database has no campaign 'nix'; it knows ")
    assert len(found.err.splitlines()) == 1
    assert not (campaign.folder / "nix.html").exists()


@pytest.mark.parametrize("place_of_debug", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(place_of_debug: int, call: Call) -> None:
    words = ["launch", "absent.yaml", "--dry-run"]
    words.insert(place_of_debug, "--debug")
    found = call(*words)
    assert found.code == 2
    assert "Traceback" in found.err
    assert "SpecificationError" in found.err


def test_an_unforeseen_error_asks_for_a_report(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("hopflow.workflows.query.find", break_down)
    found = call("query", "small")
    assert (found.code, found.out) == (1, "")
    assert "ZeroDivisionError: division by zero" in found.err
    assert "--debug" in found.err


def test_interrupted_command_ends_with_failure(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hopflow.workflows.query.find", interrupt)
    assert call("query", "small").code == 1


# -- a finished campaign -----------------------------------------------------------------------------------------------


def test_run_printed_table_and_progress(campaign: Place) -> None:
    lines = (campaign.folder / "run.out").read_text().splitlines()
    assert lines[0].startswith("small: 8 candidates, done")
    assert "stage  entered pending running passed rejected failed reused" in lines[1]
    assert any(line.startswith("Li3N") and "on the shortlist" in line for line in lines)
    assert any(line.startswith("LiF_again") and "skipped at intake: duplicate" in line for line in lines)
    assert any(line.startswith("Li3P") and "failed at bvse: missing_parameters" in line for line in lines)
    progress = (campaign.folder / "run.err").read_text().splitlines()
    assert progress
    assert all(" small: bvse " in line and " of 6 done" in line for line in progress), progress


def test_run_of_a_finished_campaign_changes_nothing(call: Call) -> None:
    before = call("query", "small", "--json").data
    assert call("run", "small", "--workers", "1").code == 0
    assert call("query", "small", "--json").data == before
    assert call("advance", "small").out == "small: no budget was due; 0 workflows added; finished.\n"
    assert call("cancel", "small").out == "small is done; there is nothing to cancel.\n"
    assert call("status", "small", "--json").data["state"] == "done"


def test_status(call: Call) -> None:
    found = call("status", "small", "--json")
    assert (found.code, found.err) == (0, "")
    stages = found.data["stages"]
    assert list(stages) == ["intake", "bvse"]
    for counts in stages.values():
        parts = [counts[name] for name in ("pending", "running", "passed", "rejected", "failed", "skipped")]
        assert sum(parts) == counts["entered"]
        assert sum(counts["reasons"].values()) == counts["rejected"] + counts["failed"] + counts["skipped"]
    assert (stages["intake"]["entered"], stages["intake"]["passed"]) == (8, 6)
    assert (stages["bvse"]["passed"], stages["bvse"]["failed"]) == (2, 1)
    assert [each["campaign"] for each in call("status", "--json").data] == ["small"]
    table = call("status").out.splitlines()
    assert table[1].split() == [
        "stage",
        "entered",
        "pending",
        "running",
        "passed",
        "rejected",
        "failed",
        "reused",
        "each",
        "left",
    ]


def test_query_json_and_csv_agree(call: Call) -> None:
    rows = call("query", "small", "--json").data
    assert [row["material_id"] for row in rows] == sorted([*CRYSTALS, "LiF_again", "broken"])
    lines = list(csv.DictReader(io.StringIO(call("query", "small", "--csv").out)))
    assert [line["material_id"] for line in lines] == [row["material_id"] for row in rows]
    for row, line in zip(rows, lines, strict=True):
        value = row["stages"].get("bvse", {}).get("value")
        assert line["bvse_value"] == ("" if value is None else str(value))
        assert "_id" not in row


def test_query_selects_and_sorts(call: Call) -> None:
    def names(*words: str) -> list[str]:
        return [row["material_id"] for row in call("query", "small", "--json", *words).data]

    values = {
        row["material_id"]: row["stages"]["bvse"]["value"]
        for row in call("query", "small", "--stage", "bvse", "--json").data
        if row["stages"]["bvse"].get("value") is not None
    }
    ascending = sorted(values, key=lambda name: (values[name], name))
    assert names("--sort", "bvse")[: len(values)] == ascending
    assert names("--sort", "value", "--stage", "bvse") == [*ascending, "Li3P"]
    assert names("--sort", "-value", "--stage", "bvse") == [*sorted(values, key=lambda n: (-values[n], n)), "Li3P"]
    assert names("--status", "passed", "--stage", "bvse", "--sort", "value") == ascending[:2]
    assert names("--status", "failed") == ["Li3P", "broken"]
    assert names("--status", "failed", "--stage", "intake") == ["broken"]
    assert names("--status", "skipped", "--stage", "intake") == ["LiF_again"]
    assert names("--status", "rejected", "--stage", "intake") == []
    assert set(names("--status", "rejected")) == set(ascending[2:])
    nothing = call("query", "small", "--status", "reused")
    assert (nothing.code, nothing.out) == (0, "No candidate of small matches.\n")


def test_query_tables_fit_and_say_why(call: Call) -> None:
    for words in ([], ["--stage", "bvse"], ["--stage", "intake"]):
        lines = call("query", "small", *words).out.splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)
    assert any("unreadable_structure" in line for line in call("query", "small").out.splitlines())


def test_why(call: Call) -> None:
    told = call("why", "small", "LiNbO3")
    assert told.code == 0
    first, *_, last = told.out.splitlines()
    assert first == "LiNbO3: rejected at bvse: above_maximum"
    assert last.startswith("  bvse    rejected  migration barrier")
    assert Reason.ABOVE_MAXIMUM.sentence in last
    assert "threshold 0.900 eV" in last
    assert call("why", "small", "Li3N").out.startswith("Li3N: on the shortlist\n")
    assert "MissingParametersError" in call("why", "small", "Li3P").out
    assert "same crystal as LiF" in call("why", "small", "LiF_again").out
    assert "broken.cif" in call("why", "small", "broken").out
    data = call("why", "small", "LiNbO3", "--json").data
    assert [step["stage"] for step in data["history"]] == ["intake", "bvse"]
    assert data["history"][1]["reason"] == "above_maximum"
    unknown = call("why", "small", "mp-1")
    assert (unknown.code, unknown.out) == (1, "")
    assert "no candidate 'mp-1'; `hopflow query small` lists them" in unknown.err


def test_report(call: Call, campaign: Place) -> None:
    found = call("report", "small", "-o", "new/report.html")
    assert (found.code, found.err) == (0, "")
    page = (campaign.folder / "new" / "report.html").read_text()
    assert "Li3N" in page
    assert "missing_parameters" in page


# -- launching ---------------------------------------------------------------------------------------------------------


def test_dry_run_changes_nothing(call: Call, campaign: Place) -> None:
    before = tree(campaign.folder)
    found = call("launch", "other.yaml", "--dry-run")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("other: 2 candidates (2 found); 2 would enter the funnel in 1 workflow, ")
    assert "launched before" in call("launch", "small.yaml", "--dry-run").out
    assert tree(campaign.folder) == before
    fresh = call("--home", "elsewhere", "launch", "other.yaml", "--dry-run")
    assert fresh.code == 0
    assert not (campaign.folder / "elsewhere").exists()
    (campaign.folder / "taken.yaml").write_text((campaign.folder / "other.yaml").read_text().replace("other", "small"))
    taken = call("launch", "taken.yaml", "--dry-run")
    assert (taken.code, taken.out) == (1, "")
    assert "another name" in taken.err


def test_life_of_a_second_campaign(call: Call, campaign: Place, tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "home")]
    assert "has no campaign yet" in call(*home, "status").out
    assert not (tmp_path / "home").exists(), "a question makes no folder"
    assert "every index is in place" in call(*home, "init").out
    assert "No campaign has work left" in call(*home, "run").out
    assert "2 entered the funnel" in call(*home, "launch", "other.yaml").out
    assert "launched before; nothing is missing" in call(*home, "launch", "other.yaml").out
    assert call(*home, "why", "other", "Li3N").out.splitlines()[0] == "Li3N: waits at bvse"
    assert "not finished" in call(*home, "advance", "other").out
    # Jobs of another category are left, and said to be.
    left = call(*home, "run", "other", "--category", "dft", "--workers", "1")
    assert left.code == 0
    assert "1 job left for a launcher of another category" in left.err
    assert call(*home, "cancel", "other").out == "other is cancelled; 1 workflow had work left.\n"
    assert call(*home, "why", "other", "Li3N").out.splitlines()[0] == "Li3N: skipped at bvse: cancelled"
    stopped = call(*home, "run", "other")
    assert (stopped.code, stopped.out) == (1, "")
    assert "`hopflow resume other` takes it up again" in stopped.err
    repaired = call(*home, "resume", "other", "--no-run")
    assert repaired.code == 0
    assert call(*home, "status", "other", "--json").data["state"] == "active"


def test_a_second_launcher_is_turned_away(call: Call, campaign: Place) -> None:
    with campaign.open():
        for words in (["run", "small"], ["launch", "other.yaml"], ["resume", "small"]):
            found = call(*words)
            assert (found.code, found.out) == (1, "")
            assert "is in use by process" in found.err
            assert len(found.err.splitlines()) == 1
        assert call("status", "small").code == 0
        assert call("why", "small", "Li3N").code == 0


def test_doctor(call: Call) -> None:
    found = call("doctor", "--json")
    verdicts = {(each["subject"], each["verdict"]) for each in found.data}
    assert ("database", "ok") in verdicts
    assert found.code == (1 if any(verdict == "broken" for _, verdict in verdicts) else 0)
    broken = call("--launchpad", "absent.yaml", "doctor")
    assert broken.code == 1
    assert "broken  database: The launchpad file absent.yaml cannot be read" in broken.out


def test_models_list_shows_whole_names(call: Call) -> None:
    rows = call("models", "list", "--json").data
    table = call("models", "list").out
    for row in rows:
        assert row["name"] in table
    assert max(map(len, table.splitlines())) <= 80


# -- stages on files ---------------------------------------------------------------------------------------------------


def test_bvse_answers_every_file_in_the_order_given(call: Call, campaign: Place) -> None:
    row = {"material_id": "row-1", "formula": "LiF", "cell": [2.84, 2.84, 2.84, 60.0, 60.0, 60.0],
           "species": ["Li", "F"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}  # fmt: skip
    (campaign.folder / "rows.jsonl").write_text(json.dumps(row) + "\nbroken\n" + json.dumps(row) + "\n")
    files = ["crystals/LiNbO3.cif", "absent.cif", "crystals", "rows.jsonl", "crystals/broken.cif", "crystals/Li3N.cif"]
    found = call("bvse", *files, "--json", "--set", "spacing_A=0.5")
    assert (found.code, found.err) == (1, "")
    answers = [json.loads(line) for line in found.out.splitlines()]
    asked = ["crystals/LiNbO3.cif", "absent.cif", "crystals", *["rows.jsonl"] * 3, *files[-2:]]
    assert [answer["file"] for answer in answers] == asked
    assert [answer["status"] for answer in answers] == ["ok", "failed", "failed", "ok", "failed", "ok", "failed", "ok"]
    for answer in answers:
        if answer["status"] == "ok":
            assert answer["settings"]["spacing_A"] == 0.5
            assert answer["barrier_1d_eV"] > 0
        else:
            assert answer["error_class"] == "StructureError"
            assert answer["message"].endswith(".")
            assert "barrier_1d_eV" not in answer
    assert "name the files in it" in answers[2]["message"]


def test_bvse_for_a_person(call: Call) -> None:
    found = call("bvse", "crystals/Li3N.cif", "--set", "spacing_A=0.5", "--oxidation-states", "Li=1,N=-3")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("crystals/Li3N.cif: Li3N, Li: 1D 0.")
    failed = call("bvse", "crystals/Li3N.cif", "--ion", "Na")
    assert failed.code == 1
    assert "failed (NoMobileIonError): The structure Li3N contains no Na" in failed.out


def test_debug_still_answers_every_file(call: Call) -> None:
    found = call("bvse", "absent.cif", "crystals/Li3N.cif", "--json", "--set", "spacing_A=0.5", "--debug")
    assert found.code == 1
    assert [json.loads(line)["status"] for line in found.out.splitlines()] == ["failed", "ok"]
    assert "Traceback" in found.err


def test_a_reader_that_goes_away_is_no_error(campaign: Place) -> None:
    process = subprocess.Popen(
        campaign.command("query", "small", "--json"),
        cwd=campaign.folder,
        env=campaign.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))], "c": {"d": 2}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, [1.5, None]], "c": {"d": 2}}


def test_what_libraries_print_goes_to_the_error_stream(capfd: pytest.CaptureFixture[str]) -> None:
    with console.quiet_stdout():
        print("from Python")
        sys.stdout.flush()
        os.write(1, b"from a library\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    print("result")
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert sorted(err.splitlines()) == ["from Python", "from a child", "from a library"]


@given(st.floats(min_value=0, max_value=3e7))
def test_durations_are_short_and_right(seconds: float) -> None:
    text = duration(seconds)
    assert len(text) <= 7
    number, unit = text.split()
    size = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert abs(float(number) * size - seconds) <= max(0.0005, 0.051 * seconds)


def test_funnel_table_fits_eighty_columns() -> None:
    from rich.console import Console

    many = dict.fromkeys(("entered", "pending", "running", "passed", "rejected", "failed", "reused"), 99999)
    paces = {"intake": 0.9994, "bvse": 59.4, "gnn": 3570.0, "pes": 36_000.0, "neb": 171_000.0}
    stages = [StageCounts(n, **many, seconds_per_material=s, time_left_seconds=400 * s) for n, s in paces.items()]
    stream = io.StringIO()
    Console(file=stream, width=80).print(funnel_table(Overview("long", "active", 99999, stages, [])))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in stream.getvalue()
    for stage, line in zip(stages, lines[2:], strict=True):
        # "59 s" and "6.6 h": the last four words.
        assert (
            " ".join(line.split()[-4:]) == f"{duration(stage.seconds_per_material)} {duration(stage.time_left_seconds)}"
        )


def test_names_are_folded_never_cut() -> None:
    from rich.console import Console

    name = "a_very_long_name_of_a_file_that_somebody_gave_without_thinking_of_others_[v2]"
    entry = {"status": "passed", "reason": "passed_gate", "value": 1.234, "quantity": "barrier_1d_eV",
             "uncertainty": None, "threshold": 0.5, "seconds": 3.0}  # fmt: skip
    stages = ["bvse", "gnn", "pes", "neb", "dft"]
    entries = {stage: dict(entry) for stage in stages}
    entries["gnn"]["uncertainty"] = 0.123
    entries["dft"] |= {"quantity": "images_written", "value": 7}
    entries["neb"] |= {"status": "failed", "value": None, "reason": "oxidation_states_unknown"}
    row = {"material_id": name, "formula": "Li7La3Zr2O12", "stages": entries}
    for table in (outcome_table([row], stages), stage_table([row], "bvse")):
        stream = io.StringIO()
        Console(file=stream, width=80).print(table)
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        head = next(number for number, line in enumerate(lines) if line.startswith("material"))
        assert "".join(line.split(" ", 1)[0] for line in lines[head + 1 :]) == name
        assert "…" not in stream.getvalue()


def test_a_log_gets_a_line_when_counts_change(
    call: Call, campaign: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = Place(tmp_path)
    home = ["--home", str(place.home)]
    call(*home, "launch", "other.yaml")
    with place.open(read_only=True) as database, LiveTable(database, ["other"], 1, line_every_seconds=0) as table:
        table.refresh()
        table.refresh()
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.strip().endswith("other: bvse 0 of 2 done")
    with campaign.open(read_only=True) as database, LiveTable(database, ["small"], 1, line_every_seconds=3600) as table:
        table.refresh()
        table._lines.clear()
        table.refresh()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_progress_counts_what_waits_for_its_budget_as_done() -> None:
    bvse = StageCounts("bvse", entered=9, pending=5, awaiting_budget=3, running=1, passed=0, rejected=2, failed=1)
    told = progress_line(Overview("x", "active", 9, [StageCounts("intake", entered=9), bvse, StageCounts("gnn")], []))
    assert told == "x: bvse 6 of 9 done (2 rejected, 1 failed)"


def test_story_names_the_id_that_was_asked_for() -> None:
    row = {"material_id": "mp-2", "formula": "LiF", "requested_ids": ["mp-1", "mp-2"]}
    failed = {"status": "failed", "reason": "not_converged", "message": "No convergence.", "error_class": "BandError"}
    row["attempts"] = [{"stage": "neb", **failed}]
    steps = [
        ("intake", {"status": "passed", "reason": "no_gate", "message": "The structure was read."}),
        ("neb", {"status": "passed", "reason": "passed_gate", "message": "Within the gate.", "value": 0.25,
                 "uncertainty": None, "quantity": "barrier_1d_eV", "threshold": 0.5, "reused_from": "job-7"}),
    ]  # fmt: skip
    assert story(row, steps, ["neb"]) == [
        ("mp-2 (LiF, asked for as mp-1): ", "on the shortlist"),
        ("  intake  passed    ", "The structure was read."),
        (
            "  neb     passed    ",
            "migration barrier, at least one direction: 0.250 eV, threshold 0.500 eV. Within the gate. (passed_gate) "
            "Result of job job-7.",
        ),
        ("  neb     earlier   ", "No convergence. (not_converged; tried again since)"),
    ]


def test_models_say_which_extra_installs_them(call: Call) -> None:
    assert "hopflow[chgnet]" in "".join(call("models", "list").out.split())
