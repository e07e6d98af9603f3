"""The Materials Project client against a local server that answers as the service does (mp-api does the talking)."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from hopflow.transport.errors import HopflowError, Reason
from hopflow.workflows.intake import Fate, from_snapshot, resolve_materials, write_snapshot
from hopflow.workflows.materials_project import canonical_id, from_materials_project, query_keys
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

KEY = "k" * 32


def rock_salt(edge_A: float, anion: str = "F") -> dict:
    half = edge_A / 2
    lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
    return Structure(lattice, ["Li", anion], [[0, 0, 0], [0.5] * 3]).as_dict()


def material(
    number: int, anion: str = "F", edge_A: float | None = None, tasks: tuple[str, ...] = (), **changes
) -> dict:
    name = f"mp-{number}"
    return {
        "material_id": name,
        "task_ids": [name, *tasks],
        "structure": rock_salt(edge_A if edge_A is not None else 4.0 + number * 5e-3, anion),
        "formula_pretty": f"Li{anion}",
        "elements": ["Li", anion],
        "energy_above_hull": 0.01 * (number % 7),
        "band_gap": 8.0,
        "deprecated": False,
        "deprecation_reasons": None,
        "origins": [{"name": "structure", "task_id": f"mp-{number + 500000}", "last_updated": "2024-01-01T00:00:00"}],
    } | changes


@dataclass
class Service:
    """What the server holds and how it misbehaves."""

    materials: list[dict]
    heartbeat: tuple[int, str] = (200, "application")
    failures: dict[str, list[tuple[int, dict]]] = field(default_factory=dict)
    longest_list: int = 100_000
    requests: list[tuple[str, dict]] = field(default_factory=list)
    url: str = ""

    def paths(self) -> Counter:
        return Counter(path for path, _ in self.requests)

    def answer(self, path: str, query: dict[str, str], key: str | None) -> tuple[int, dict, dict]:
        """Status, headers, body for a request."""
        self.requests.append((path, query))
        if planned := self.failures.get(path):
            status, headers = planned.pop(0)
            return status, headers, {"detail": "busy"}
        if path == "/heartbeat":
            body = {"status": "OK", "db_version": "2025.09.25", "version": "0.87.3", "access_controlled_batch_ids": []}
            return self.heartbeat[0], {}, body if self.heartbeat[0] == 200 else {"message": "forbidden"}
        if key != KEY:
            return (401, {}, {"message": "Unauthorized"})
        if path not in ("/materials/summary/", "/materials/core/"):
            return 404, {}, {"detail": "Not Found"}
        return self.search(query, listed="material_ids" if path == "/materials/summary/" else "task_ids")

    def search(self, query: dict[str, str], listed: str) -> tuple[int, dict, dict]:
        names = query[listed].split(",") if listed in query else None
        if names is not None and len(names) > self.longest_list:
            return 414, {}, {"detail": "Request-URI Too Large"}
        # As the service: deprecated materials only when asked for, and then nothing else.
        deprecated = query.get("deprecated", "False") == "True"
        found = [m for m in self.materials if m["deprecated"] is deprecated]
        if names is not None:
            own = (lambda m: [m["material_id"]]) if listed == "material_ids" else (lambda m: m["task_ids"])
            found = [m for m in found if set(names) & set(own(m))]
        if "elements" in query:
            found = [m for m in found if set(query["elements"].split(",")) <= set(m["elements"])]
        if "energy_above_hull_max" in query:
            found = [m for m in found if m["energy_above_hull"] <= float(query["energy_above_hull_max"])]
        start, count = int(query.get("_skip", 0)), int(query.get("_limit", 100))
        fields = query.get("_fields", "material_id").split(",")
        page = [{k: m[k] for k in fields if k in m} for m in found[start : start + count]]
        meta = {
            "api_version": "0.87.3",
            "time_stamp": "2025-10-01T00:00:00",
            "total_doc": len(found),
            "max_limit": 1000,
        }
        return 200, {}, {"data": page, "errors": None, "meta": meta}


@pytest.fixture
def service() -> Iterator[Service]:
    held = Service(
        materials=[
            material(149, tasks=("mp-150", "mvc-77")),
            material(151, "Cl"),
            material(
                152, "Br", deprecated=True, deprecation_reasons=["I. Incorrect pseudopotential"], tasks=("mp-153",)
            ),
            material(160, band_gap=None, energy_above_hull=None),
        ]
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server looks the method up by this name
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, headers, body = held.answer(parts.path, query, self.headers.get("x-api-key"))
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    held.url = f"http://127.0.0.1:{server.server_port}"
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mp-149", "mp-149"),
        (" MP-149\n", "mp-149"),
        ("mp-000149", "mp-149"),
        ("mvc-2970", "mvc-2970"),
        ("mp-aaaaaaft", "mp-149"),
        ("mp-ft", "mp-149"),
        ("mp-3347530", "mp-aaahilze"),
        ("mp-aaahilze", "mp-aaahilze"),
        ("mp-hilze", "mp-aaahilze"),
        ("mp-12x", None),
        ("149", None),
        ("mp-", None),
        ("LiF", None),
        ("mp-149,mp-150", None),
        ("", None),
    ],
)
def test_ids_have_one_spelling(text, name):
    assert canonical_id(text) == name


def test_spelling_of_emmet_identifiers():
    """The client's own id types, whose ``str`` is not their name."""
    from emmet.core.mpid import MPID, AlphaID

    assert canonical_id(MPID("mp-149")) == canonical_id(AlphaID("mp-149")) == "mp-149"
    assert str(AlphaID("mp-149")) != "mp-149"


@given(st.integers(1, 10**9))
def test_both_spellings_of_a_number_are_one_id(number):
    from emmet.core.mpid import AlphaID

    name = canonical_id(f"mp-{number}")
    assert name == canonical_id(str(AlphaID(number, prefix="mp"))) == canonical_id(name)
    assert AlphaID(name) == AlphaID(f"mp-{number}")
    assert (name == f"mp-{number}") == (AlphaID(f"mp-{number}").string == f"mp-{number}")


def test_every_requested_id_has_a_fate(service, capfd):
    asked = [
        "mp-151",
        "mp-150",
        "mp-149",
        "mvc-77",
        "mp-aaaaaaft",
        "mp-152",
        "mp-153",
        "mp-999",
        "mp-12x",
        "mp-151",
        "mp-160",
    ]
    seen = []
    intake = from_materials_project(asked, api_key=KEY, endpoint=service.url, progress=lambda *n: seen.append(n))

    by_id = {candidate.material_id: candidate for candidate in intake.candidates}
    assert list(by_id) == ["mp-151", "mp-149", "mp-152", "mp-999", "mp-12x", "mp-160"]
    assert by_id["mp-149"].requested_ids == ["mp-150", "mp-149", "mvc-77", "mp-aaaaaaft"]
    assert {name: str(candidate.fate) for name, candidate in by_id.items()} == {
        "mp-151": "found",
        "mp-149": "found",
        "mp-152": "deprecated",
        "mp-999": "not_found",
        "mp-12x": "invalid",
        "mp-160": "found",
    }
    fates = intake.request_fates()
    assert set(fates) == set(asked)
    assert fates["mp-150"] == (Fate.MERGED, "mp-149")
    assert fates["mp-149"] == (Fate.FOUND, "mp-149")

    assert by_id["mp-151"].structure.composition.reduced_formula == by_id["mp-151"].formula == "LiCl"
    assert by_id["mp-151"].structure == Structure.from_dict(rock_salt(4.755, "Cl"))
    assert by_id["mp-151"].properties == {"energy_above_hull_eV_per_atom": pytest.approx(0.04), "band_gap_eV": 8.0}
    assert by_id["mp-160"].properties == {"energy_above_hull_eV_per_atom": None, "band_gap_eV": None}
    assert by_id["mp-151"].source == "Materials Project mp-151, structure of task mp-500151"
    reasons = {name: c.error.reason for name, c in by_id.items() if c.error is not None}
    assert reasons == {"mp-152": Reason.DEPRECATED, "mp-999": Reason.NOT_FOUND, "mp-12x": Reason.INVALID_ID}
    assert "Incorrect pseudopotential" in str(by_id["mp-152"].error)
    assert [c.material_id for c in intake.candidates if c.enters_funnel] == ["mp-151", "mp-149", "mp-160"]
    assert intake.database_version == "2025.09.25"
    assert seen == [(8, 8)]  # ids, less the repeated one, the second spelling of mp-149 and the one that is no id
    assert capfd.readouterr() == ("", "")


def test_merged_id_alone_keeps_both_names(service):
    intake = from_materials_project(["mp-150", "mp-153"], api_key=KEY, endpoint=service.url)
    merged, withdrawn = intake.candidates
    assert (merged.material_id, merged.requested_ids, merged.fate) == ("mp-149", ["mp-150"], Fate.MERGED)
    assert merged.enters_funnel
    assert (withdrawn.material_id, withdrawn.requested_ids, withdrawn.fate) == ("mp-152", ["mp-153"], Fate.DEPRECATED)
    assert not withdrawn.enters_funnel


def test_bulk_requests(service):
    """1,100 ids take three requests, not 1,100; those that are missing cost a few more."""
    service.materials = [material(1000 + n) for n in range(1100)]
    wanted = [m["material_id"] for m in service.materials]
    seen = []
    intake = from_materials_project(wanted, api_key=KEY, endpoint=service.url, progress=lambda *n: seen.append(n))
    assert [candidate.material_id for candidate in intake.candidates] == wanted
    assert intake.fates() == {Fate.FOUND: 1100}
    assert service.paths()["/materials/summary/"] == 3
    assert service.paths()["/materials/core/"] == 0
    assert seen == [(500, 1100), (1000, 1100), (1100, 1100)]


def test_too_long_list_is_split(service):
    service.materials = [material(1000 + n) for n in range(250)]
    service.longest_list = 100
    wanted = [m["material_id"] for m in service.materials]
    intake = from_materials_project(wanted, api_key=KEY, endpoint=service.url)
    assert [c.material_id for c in intake.candidates] == wanted
    assert {c.fate for c in intake.candidates} == {Fate.FOUND}


def test_query_reads_every_page(service):
    service.materials = [material(1000 + n) for n in range(1203)] + [material(5, "Cl")]
    intake = from_materials_project(
        mp_query={"elements": ["Li", "F"], "energy_above_hull": [0, 0.031]}, api_key=KEY, endpoint=service.url
    )
    expected = [m["material_id"] for m in service.materials if m["energy_above_hull"] <= 0.031 and "F" in m["elements"]]
    assert len(expected) > 500
    assert [c.material_id for c in intake.candidates] == expected
    pages = [q for path, q in service.requests if path == "/materials/summary/"]
    assert [int(q.get("_skip", 0)) for q in pages] == [0, 500]
    assert intake.query == {"elements": ["Li", "F"], "energy_above_hull": [0, 0.031]}


def test_query_is_checked_before_the_service_is_asked_for_it(service):
    assert {"elements", "energy_above_hull", "num_sites", "chemsys"} <= set(query_keys())
    with pytest.raises(HopflowError, match=r"does not know e_hull; allowed: .*energy_above_hull"):
        from_materials_project(mp_query={"e_hull": 0.1}, api_key=KEY, endpoint=service.url)
    with pytest.raises(HopflowError, match="whole database"):
        from_materials_project(mp_query={}, api_key=KEY, endpoint=service.url)
    with pytest.raises(HopflowError, match=r"allowed: .*FM"):
        from_materials_project(mp_query={"magnetic_ordering": "loud"}, api_key=KEY, endpoint=service.url)
    assert set(service.paths()) == {"/heartbeat"}
    with pytest.raises(HopflowError, match="list of Materials Project ids is empty"):
        from_materials_project([], api_key=KEY, endpoint=service.url)


def test_busy_service_is_asked_again(service):
    service.failures = {
        "/heartbeat": [(502, {})],
        "/materials/summary/": [(429, {"Retry-After": "0"}), (502, {})],
    }
    intake = from_materials_project(["mp-149"], api_key=KEY, endpoint=service.url)
    assert [c.fate for c in intake.candidates] == [Fate.FOUND]
    assert service.paths()["/materials/summary/"] == 3
    assert intake.database_version == "2025.09.25"


def test_service_that_stays_busy_is_one_sentence(service):
    service.failures = {"/materials/summary/": [(502, {})] * 10}
    with pytest.raises(HopflowError, match=r"could not be asked .*try again later, or .*snapshot") as caught:
        from_materials_project(["mp-149"], api_key=KEY, endpoint=service.url)
    assert "\n" not in str(caught.value)


def test_refused_heartbeat_only_costs_the_version(service):
    service.heartbeat = (403, "")
    intake = from_materials_project(["mp-149"], api_key=KEY, endpoint=service.url)
    assert intake.database_version is None
    assert [c.fate for c in intake.candidates] == [Fate.FOUND]


def test_bad_keys(service, monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delitem(SETTINGS, "PMG_MAPI_KEY", raising=False)
    with pytest.raises(HopflowError, match=r"set MP_API_KEY .*snapshot: FILE.*structures: FOLDER"):
        from_materials_project(["mp-149"], endpoint=service.url)
    assert service.requests == []
    for key in ("short", "x" * 32):
        with pytest.raises(HopflowError, match="refuses the API key; set MP_API_KEY"):
            from_materials_project(["mp-149"], api_key=key, endpoint=service.url)
    monkeypatch.setenv("MP_API_KEY", KEY)
    assert from_materials_project(["mp-149"], endpoint=service.url).candidates[0].fate is Fate.FOUND


def test_no_service_is_one_sentence():
    with pytest.raises(HopflowError, match=r"does not answer .*try again later"):
        from_materials_project(["mp-149"], api_key=KEY, endpoint="http://127.0.0.1:9")  # nothing listens there


def test_row_without_a_structure_costs_only_itself(service):
    service.materials = [material(1, structure=None), material(2), material(3, structure={"lattice": {}, "sites": []})]
    intake = from_materials_project(["mp-1", "mp-2", "mp-3"], api_key=KEY, endpoint=service.url)
    assert [c.fate for c in intake.candidates] == [Fate.UNREADABLE, Fate.FOUND, Fate.UNREADABLE]
    assert intake.candidates[0].error.reason is Reason.UNREADABLE_STRUCTURE


def test_intake_survives_freezing(service, tmp_path):
    asked = ["mp-150", "mp-149", "mp-152", "mp-999", "mp-12x"]
    intake = resolve_materials(mp_ids=asked, api_key=KEY, endpoint=service.url)
    digest = write_snapshot(intake, tmp_path / "li.json.gz")
    again = from_snapshot(tmp_path / "li.json.gz")
    assert digest == intake.snapshot_sha256 == again.snapshot_sha256
    assert again.request_fates() == intake.request_fates()
    assert (again.database_version, again.query) == ("2025.09.25", {"mp_ids": asked})
    chosen = from_snapshot(tmp_path / "li.json.gz", mp_ids=["mp-150", "mp-5"])
    assert [(c.material_id, str(c.fate)) for c in chosen.candidates] == [("mp-149", "found"), ("mp-5", "not_found")]
