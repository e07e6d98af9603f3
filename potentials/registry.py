"""The potentials that hopflow knows by name: where their weights come from and how to tell that they are right.

This module imports no torch, so that the command line lists potentials at once; :func:`load_potential` imports a model
when it is asked for one.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..transport.errors import HopflowError
from .calculator_names import NAMED_CALCULATORS, is_calculator_name
from .entries import IndexPackage, PotentialEntry, Precision, UpstreamRelease, WeightFile

if TYPE_CHECKING:
    from ..transport.energies import Potential

_MACE_SMALL = "mace-mp-0-small"
_M3GNET = "m3gnet-mp-2021.2.8"
_M3GNET_DIRECT = "m3gnet-mp-2021.2.8-direct"

DEFAULT_NEB_POTENTIAL = _MACE_SMALL
DEFAULT_SCAN_POTENTIAL = _M3GNET_DIRECT

_MATGL_FILES = ("model.json", "model.pt", "state.pt")

# One archive carries both default potentials, so one download serves both.
_JANUS_CORE = IndexPackage(
    requirement="janus-core==0.8.1",
    sha256="80b86ab2cc3a623f02549c444a248fbe6c3c000ffe22c54cebe745d7f08c1976",
    size_bytes=104_822_924,
    members={
        _MACE_SMALL: ("tests/models/mace_mp_small.model",),
        _M3GNET_DIRECT: tuple(f"tests/models/M3GNet-MP-2021.2.8-DIRECT-PES/{file}" for file in _MATGL_FILES),
    },
)


def _matgl_releases(folder: str) -> tuple[UpstreamRelease, ...]:
    """Tags of the matgl repository before 3.0, which re-released all weights in another convention elsewhere."""
    base = "https://github.com/materialyzeai/matgl/raw"
    return tuple(
        UpstreamRelease(
            label=f"matgl repository, tag {tag}",
            urls=tuple(f"{base}/{tag}/pretrained_models/{folder}/{file}" for file in _MATGL_FILES),
        )
        for tag in ("v2.0.6", "v1.3.0")
    )


_ENTRIES: tuple[PotentialEntry, ...] = (
    PotentialEntry(
        name=_MACE_SMALL,
        family="mace",
        description="MACE-MP-0 small: universal potential, 89 elements; default for NEB",
        method="MACE-MP-0 small (2023-12-10, L=0, r_max 6 Angstrom), MPtrj, PBE/PBE+U",
        licence="MIT",
        citation="Batatia et al., arXiv 2401.00096 (2023)",
        files=(
            WeightFile(
                name="mace-mp-0-small.model",
                sha256="2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
                size_bytes=32_581_838,
            ),
        ),
        other_names=("2023-12-10-mace-128-L0_energy_epoch-249.model", "mace_mp_small.model"),
        upstream=(
            UpstreamRelease(
                label="mace-mp release mace_mp_0",
                urls=(
                    "https://github.com/ACEsuit/mace-mp/releases/download/mace_mp_0/"
                    "2023-12-10-mace-128-L0_energy_epoch-249.model",
                ),
            ),
        ),
        packages=(_JANUS_CORE,),
        default_dtype="float64",
        reference_energy_eV_per_atom=-4.834498513,
    ),
    PotentialEntry(
        name=_M3GNET_DIRECT,
        family="m3gnet",
        description="M3GNet-MP-2021.2.8-DIRECT: universal potential, 89 elements, fast; default for landscape scans",
        method="M3GNet-MP-2021.2.8-DIRECT (matgl weights of before 3.0), Materials Project relaxations, PBE/PBE+U",
        licence="BSD-3-Clause",
        citation="Qi et al., npj Comput. Mater. 10, 43 (2024)",
        files=(
            WeightFile(
                name="model.json",
                sha256="2aaa8a11440728d71d0171fe996addc08079be2908032dd00ead912c5a287b2a",
                size_bytes=5_215,
            ),
            WeightFile(
                name="model.pt",
                sha256="1050f95642f9a234ddc4119b9756688dc23296aabf05dcf5b10c686dd39dbc24",
                size_bytes=671_949,
            ),
            WeightFile(
                name="state.pt",
                sha256="903ffe75e7a94c876373d04f8fea0c7cd3333afbf1b908fe61e54ddd74243994",
                size_bytes=4_543_793,
            ),
        ),
        other_names=("M3GNet-MP-2021.2.8-DIRECT-PES",),
        upstream=_matgl_releases("M3GNet-MP-2021.2.8-DIRECT-PES"),
        packages=(_JANUS_CORE,),
        default_dtype="float32",
        reference_energy_eV_per_atom=-4.784705846,
    ),
    PotentialEntry(
        name=_M3GNET,
        family="m3gnet",
        description="M3GNet-MP-2021.2.8: universal potential, 89 elements, fastest; no package carries its weights",
        method="M3GNet-MP-2021.2.8 (matgl weights of before 3.0), Materials Project relaxations, PBE/PBE+U",
        licence="BSD-3-Clause",
        citation="Chen and Ong, Nat. Comput. Sci. 2, 718 (2022)",
        files=(
            WeightFile(
                name="model.json",
                sha256="05e7db8676ceb37eb07848aff49c556b188699e1035f3df0cbbf1a2c4959148f",
                size_bytes=5_211,
            ),
            WeightFile(
                name="model.pt",
                sha256="62678f76fbc5d8997ea1d7f3c4bf086df200102125c802b32b08ce14fbcde25b",
                size_bytes=672_717,
            ),
            WeightFile(
                name="state.pt",
                sha256="a9aa723705bd1a242ec8749332f137811c4a94e17995a564f8f94a9aca68061b",
                size_bytes=1_228_529,
            ),
        ),
        other_names=("M3GNet-MP-2021.2.8-PES",),
        upstream=_matgl_releases("M3GNet-MP-2021.2.8-PES"),
        packages=(),
        default_dtype="float32",
        reference_energy_eV_per_atom=-4.834043052,
    ),
)

_LOADED: dict[tuple[str, str, str, str | None], Potential] = {}
_LOADED_LOCK = threading.Lock()


def list_potentials() -> list[PotentialEntry]:
    """Every potential of the registry, the defaults first."""
    return list(_ENTRIES)


def get_entry(name: str) -> PotentialEntry:
    """The registry's entry of a name.

    Raises
    ------
    HopflowError
        No potential has that name; the message lists the names there are.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    names = ", ".join([*(entry.name for entry in _ENTRIES), *NAMED_CALCULATORS])
    raise HopflowError(
        f"There is no potential called {name!r}; choose one of: {names}; or give the dotted path of an ASE calculator."
    )


def check_potential_name(name: str) -> None:
    """Refuse a name that is neither in the registry nor that of an ASE calculator, without loading anything.

    Raises
    ------
    HopflowError
        The message lists the names that there are.
    """
    if not is_calculator_name(name):
        get_entry(name)


def potential_sha256(name: str) -> str:
    """SHA-256 that stands for a potential's weights: the registry's, or of an ASE calculator, which is made for it.

    Raises
    ------
    HopflowError
        There is no potential of that name, or its calculator cannot be made.
    """
    return load_potential(name).weights_sha256 if is_calculator_name(name) else get_entry(name).sha256


def fetch_weights(name: str, path: str | Path | None = None, progress: bool | None = None) -> Path:
    """Find or fetch the weights of a potential; see :func:`hopflow.potentials.weights.fetch_entry`."""
    from .weights import fetch_entry

    return fetch_entry(get_entry(name), path=path, progress=progress)


def load_potential(
    name: str = DEFAULT_NEB_POTENTIAL,
    device: str = "auto",
    dtype: Precision | None = None,
    path: str | Path | None = None,
    progress: bool | None = None,
) -> Potential:
    """Load a potential; a process keeps one instance for each (name, device, dtype, path).

    The weights are fetched if need be and their SHA-256 is checked before they are unpickled. After every load the
    energy of rock-salt LiF is compared with the registry's.

    Parameters
    ----------
    name
        Registry name; or short name or dotted path of an ASE calculator (:mod:`.calculators`), which has its own
        precision and device and no reference energy.
    device
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1`` and so on.
    dtype
        ``float32`` or ``float64``; default is the entry's (MACE float64, M3GNet float32).
    path
        Explicit file or folder with the weights.
    progress
        Show a progress bar while downloading; None shows it on terminals alone.

    Raises
    ------
    HopflowError
        Unknown name, precision or device.
    WeightsError
        No weights to be had, or weights that do not reproduce the reference energy.
    """
    if is_calculator_name(name):
        return _load_calculator(name)
    entry = get_entry(name)
    precision = dtype or entry.default_dtype
    if precision not in ("float32", "float64"):
        raise HopflowError(f"There is no precision called {precision!r}; choose float32 or float64.")
    from .runtime import keep_freed_memory, resolve_device

    resolved = resolve_device(device)
    keep_freed_memory()
    key = (name, resolved, precision, None if path is None else str(Path(path).expanduser().resolve()))
    with _LOADED_LOCK:
        if key not in _LOADED:
            _LOADED[key] = _load(entry, resolved, precision, path, progress)
        return _LOADED[key]


def _load_calculator(name: str) -> Potential:
    """An ASE calculator; a process keeps one instance for each name."""
    from .calculators import CalculatorPotential, make_calculator
    from .runtime import keep_freed_memory

    keep_freed_memory()
    key = (name, "", "", None)
    with _LOADED_LOCK:
        if key not in _LOADED:
            _LOADED[key] = CalculatorPotential(name, make_calculator(name))
        return _LOADED[key]


def _load(
    entry: PotentialEntry, device: str, dtype: Precision, path: str | Path | None, progress: bool | None
) -> Potential:
    """Fetch, build and check one potential."""
    from .runtime import check_reference_energy
    from .weights import fetch_entry

    weights = fetch_entry(entry, path=path, progress=progress)
    potential: Potential
    if entry.family == "mace":
        from .mace import MacePotential

        potential = MacePotential(entry, weights, device=device, dtype=dtype)
    else:
        from .m3gnet import M3GNetPotential

        potential = M3GNetPotential(entry, weights, device=device, dtype=dtype)
    check_reference_energy(potential, entry, dtype)
    return potential
