"""What a stage can be judged by: every quantity's label, unit and better direction, once."""

from __future__ import annotations

from enum import StrEnum


class Quantity(StrEnum):
    """A number that a stage document carries and a gate can read."""

    BARRIER_1D = "barrier_1d_eV"
    BARRIER_2D = "barrier_2d_eV"
    BARRIER_3D = "barrier_3d_eV"
    MINIMAL_PERCOLATION_ENERGY = "minimal_percolation_energy_eV"
    CONNECTED_FREE_VOLUME = "connected_free_volume_fraction"
    DISCONNECTED_FREE_VOLUME = "disconnected_free_volume_fraction"
    FREE_VOLUME_SCORE = "free_volume_score"
    ENERGY_ABOVE_HULL = "energy_above_hull_eV_per_atom"
    BAND_GAP = "band_gap_eV"
    IMAGES_WRITTEN = "images_written"
    BARRIER_SPAN = "barrier_span_eV"

    @property
    def label(self) -> str:
        """The name for people."""
        return _FACTS[self][0]

    @property
    def unit(self) -> str:
        """The unit, empty for a pure number."""
        return _FACTS[self][1]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value promises faster ions (or a more stable crystal)."""
        return _FACTS[self][2]


_FACTS: dict[Quantity, tuple[str, str, bool]] = {
    Quantity.BARRIER_1D: ("migration barrier, at least one direction", "eV", True),
    Quantity.BARRIER_2D: ("migration barrier, at least two directions", "eV", True),
    Quantity.BARRIER_3D: ("migration barrier, three directions", "eV", True),
    Quantity.MINIMAL_PERCOLATION_ENERGY: ("minimal percolation energy, face of a 2x2x2 box", "eV", True),
    Quantity.CONNECTED_FREE_VOLUME: ("connected free volume", "", False),
    Quantity.DISCONNECTED_FREE_VOLUME: ("disconnected free volume", "", False),
    Quantity.FREE_VOLUME_SCORE: ("combined free volume score", "", False),
    Quantity.ENERGY_ABOVE_HULL: ("energy above hull", "eV/atom", True),
    Quantity.BAND_GAP: ("band gap", "eV", False),
    Quantity.IMAGES_WRITTEN: ("images written", "", False),
    Quantity.BARRIER_SPAN: ("barrier of the limiting hop, highest less lowest image", "eV", True),
}


class BarrierSource(StrEnum):
    """Who made the barriers of a stage that has more than one way to them."""

    BOND_VALENCE = "bond_valence"
    INTERSTITIAL_NETWORK = "interstitial_network"

    @property
    def is_prediction(self) -> bool:
        """Whether a model guessed the value that the stage's own method could not compute."""
        return self is BarrierSource.INTERSTITIAL_NETWORK
