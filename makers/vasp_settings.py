"""What a VASP calculation was told to do: its INCAR and k-points, in words and in comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..transport.errors import CandidateError, Reason

_FUNCTIONALS = {"PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE", "AM": "AM05", "91": "PW91", "CA": "LDA"}
# Tags that change the energy, with what VASP takes where one is absent; None: that depends on the potentials.
_ENERGY_TAGS: dict[str, Any] = {
    "ENCUT": None,
    "GGA": None,
    "METAGGA": "--",
    "LHFCALC": False,
    "LDAU": False,
    "LDAUU": None,
    "NELECT": None,
    "ISPIN": 1,
    "PREC": "N",
    "IVDW": 0,
}


def read_incar(folder: Path) -> dict[str, Any]:
    """INCAR of a folder; empty where there is none.

    Raises
    ------
    CandidateError
        The file is no INCAR.
    """
    from monty.os.path import zpath
    from pymatgen.io.vasp import Incar

    file = Path(zpath(str(folder / "INCAR")))
    if not file.is_file():
        return {}
    try:
        return dict(Incar.from_file(file))
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise CandidateError(f"{file} cannot be read ({error}); restore it.", Reason.INCOMPLETE_RESULTS) from error


def mesh_text(folder: Path) -> str | None:
    """The k-points of a folder in words; None where it has no readable KPOINTS."""
    from monty.os.path import zpath
    from pymatgen.io.vasp import Kpoints

    file = Path(zpath(str(folder / "KPOINTS")))
    if not file.is_file():
        return None
    try:
        points = Kpoints.from_file(file)
    except (OSError, ValueError, IndexError):
        return None
    if points.style.name not in ("Gamma", "Monkhorst"):
        return f"{points.num_kpts or len(points.kpts)} points, {points.style.name.lower()}"
    mesh = " x ".join(str(int(count)) for count in points.kpts[0])
    shift = "" if not any(points.kpts_shift) else f", shifted by {' '.join(f'{x:g}' for x in points.kpts_shift)}"
    return f"{mesh} {points.style.name}{shift}"


def first_difference(band: dict[str, Any], endpoint: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first tag that gives two calculations other energies, with the value of each; None where there is none.

    Parameters
    ----------
    band, endpoint
        Their INCAR tags.
    """
    for tag, default in _ENERGY_TAGS.items():
        if tag == "LDAUU" and not (band.get("LDAU") and endpoint.get("LDAU")):
            continue
        first, second = band.get(tag, default), endpoint.get(tag, default)
        if _plain(tag, first) != _plain(tag, second):
            return tag, _shown(first), _shown(second)
    return None


def _plain(tag: str, value: Any) -> Any:
    """A value such that what VASP reads alike is equal."""
    if isinstance(value, str):
        text = value.strip().upper()
        return text[:1] if tag == "PREC" else text
    if isinstance(value, list | tuple):
        return [_plain(tag, each) for each in value]
    return round(float(value), 6) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _shown(value: Any) -> Any:
    return "not set" if value is None else value


def functional_name(tags: dict[str, Any]) -> str | None:
    """Name of the exchange-correlation functional; None where only the potentials tell."""
    meta = str(tags.get("METAGGA") or "--").strip().upper()
    gga = str(tags.get("GGA") or "--").strip().upper()
    if meta not in ("--", "NONE"):
        name: str | None = meta
    elif tags.get("LHFCALC"):
        name = "hybrid functional"
    else:
        name = _FUNCTIONALS.get(gga, None if gga == "--" else gga)
    if name is not None and tags.get("LDAU") and any(tags.get("LDAUU") or ()):
        name += "+U"
    return name


def hubbard_u_eV(tags: dict[str, Any], species: list[str]) -> dict[str, float]:
    """U minus J by element, in eV; empty without any.

    Parameters
    ----------
    tags
        INCAR tags; LDAUU and LDAUJ list a value for each species.
    species
        Elements in the order of the POTCAR.
    """
    if not tags.get("LDAU"):
        return {}
    values = list(tags.get("LDAUU") or ())
    exchange = list(tags.get("LDAUJ") or [0.0] * len(values))
    return {element: float(u) - float(j) for element, u, j in zip(species, values, exchange, strict=False) if u or j}
