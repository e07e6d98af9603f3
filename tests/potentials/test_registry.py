from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hopflow.potentials import registry
from hopflow.transport.errors import HopflowError


def test_names_are_unique_and_the_defaults_are_listed() -> None:
    names = [entry.name for entry in registry.list_potentials()]
    assert len(names) == len(set(names))
    assert registry.DEFAULT_NEB_POTENTIAL in names
    assert registry.DEFAULT_SCAN_POTENTIAL in names


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(HopflowError) as caught:
        registry.get_entry("mace-large")
    for entry in registry.list_potentials():
        assert entry.name in str(caught.value)


@pytest.mark.parametrize("entry", registry.list_potentials(), ids=lambda entry: entry.name)
def test_every_source_offers_every_file(entry: registry.PotentialEntry) -> None:
    for file in entry.files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.size_bytes > 0
    for release in entry.upstream:
        assert [url.rsplit("/", 1)[-1] for url in release.urls] in (
            [file.name for file in entry.files],
            list(entry.other_names[:1]),
        )
        assert all(url.startswith("https://") for url in release.urls)
    for package in entry.packages:
        assert len(package.members[entry.name]) == len(entry.files)
        assert "==" in package.requirement
    assert entry.sources


def test_the_default_potentials_come_from_one_package() -> None:
    neb = registry.get_entry(registry.DEFAULT_NEB_POTENTIAL)
    scan = registry.get_entry(registry.DEFAULT_SCAN_POTENTIAL)
    assert neb.packages == scan.packages
    assert {neb.name, scan.name} <= set(neb.packages[0].members)


def test_the_combined_hash_depends_on_every_file_but_not_on_their_order() -> None:
    entry = registry.get_entry("m3gnet-mp-2021.2.8")
    by_hand = "".join(sorted(f"{file.name} {file.sha256}\n" for file in entry.files))
    assert entry.sha256 == hashlib.sha256(by_hand.encode()).hexdigest()
    assert entry.sha256 != registry.get_entry("m3gnet-mp-2021.2.8-direct").sha256
    single = registry.get_entry("mace-mp-0-small")
    assert single.sha256 == single.files[0].sha256


def test_listing_potentials_imports_no_torch() -> None:
    code = (
        "import sys; from hopflow.potentials.registry import list_potentials; assert list_potentials(); "
        "print(sorted(m for m in ('torch', 'numpy', 'mace', 'matgl', 'requests') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"device": "tpu"}, "tpu"), ({"device": "cuda:99"}, "cuda:99"), ({"dtype": "float16"}, "float16")],
)
def test_a_wrong_device_or_precision_is_named(arguments: dict[str, str], word: str) -> None:
    with pytest.raises(HopflowError, match=word):
        registry.load_potential("mace-mp-0-small", **arguments)
