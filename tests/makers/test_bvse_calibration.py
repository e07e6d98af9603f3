"""The DFT-like barriers in the bvse stage's document: beside the raw ones, and absent where no fit speaks."""

import pytest
from hopflow.makers.bvse import BondValenceMaker
from hopflow.makers.documents import BondValenceDocument, StageDocument
from hopflow.makers.quantities import Quantity
from hopflow.makers.settings import BondValenceStageSettings
from hopflow.transport.calibration import dft_like_barrier
from places import DEMO
from pymatgen.core import Lattice, Structure

COARSE = BondValenceStageSettings(spacing_A=0.4)


def document(structure: Structure, maker: BondValenceMaker) -> BondValenceDocument:
    found: StageDocument = maker.evaluate(structure)
    assert isinstance(found, BondValenceDocument)
    return found


def test_document_carries_both_scales() -> None:
    found = document(Structure.from_file(DEMO / "LiFePO4.cif"), BondValenceMaker(settings=COARSE))
    for name in ("1d", "2d", "3d"):
        raw = getattr(found, f"barrier_{name}_eV")
        estimate = dft_like_barrier(raw, "Li")
        assert getattr(found, f"barrier_{name}_dft_like_eV") == estimate.barrier_eV != raw
        assert getattr(found, f"barrier_{name}_dft_like_sigma_eV") == estimate.sigma_eV
    assert found.quantity(Quantity.BARRIER_1D) == found.barrier_1d_eV


@pytest.mark.parametrize(
    ("ion", "length_A", "settings"),
    [("K", 6.29, COARSE), ("Li", 5.13, BondValenceStageSettings(spacing_A=0.4, screening=0.7))],
)
def test_no_estimate_for_other_ions_and_other_physics(
    ion: str, length_A: float, settings: BondValenceStageSettings
) -> None:
    halite = Structure.from_spacegroup("Fm-3m", Lattice.cubic(length_A), [ion, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = document(halite, BondValenceMaker(ion=ion, settings=settings))
    assert found.barrier_1d_eV is not None
    assert found.barrier_1d_dft_like_eV is None
    assert found.barrier_3d_dft_like_sigma_eV is None
