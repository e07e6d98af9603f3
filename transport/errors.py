"""Why a candidate got no answer or no pass: one reason code, one sentence each.

Every error that a single candidate can cause derives from :class:`CandidateError`. A stage catches it for that
candidate alone, so that bad input never costs a neighbour's result.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reason codes of the ledger; ``Reason.X.sentence`` tells a person what the code means."""

    PASSED_GATE = "passed_gate"
    ABOVE_MAXIMUM = "above_maximum"
    BELOW_MINIMUM = "below_minimum"
    OUTSIDE_TOP = "outside_top"
    NO_PERCOLATION = "no_percolation"
    AWAITING_BUDGET = "awaiting_budget"
    NO_GATE = "no_gate"
    VALUE_UNKNOWN = "value_unknown"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"

    NOT_FOUND = "not_found"
    DEPRECATED = "deprecated"
    INVALID_ID = "invalid_id"

    UNREADABLE_STRUCTURE = "unreadable_structure"
    EMPTY_STRUCTURE = "empty_structure"
    NO_MOBILE_ION = "no_mobile_ion"
    PARTIAL_OCCUPANCY = "partial_occupancy"
    OCCUPANCY_ABOVE_ONE = "occupancy_above_one"
    TOO_MANY_ATOMS = "too_many_atoms"
    CLOSE_CONTACT = "close_contact"
    OXIDATION_STATES_UNKNOWN = "oxidation_states_unknown"
    METALLIC = "metallic"
    MISSING_PARAMETERS = "missing_parameters"
    UNSUPPORTED_ELEMENT = "unsupported_element"
    NON_FINITE_ENERGY = "non_finite_energy"
    NO_HOPS = "no_hops"
    NO_INSERTION_HOST = "no_insertion_host"
    TOO_MANY_HOPS = "too_many_hops"
    ENDPOINT_NOT_RELAXED = "endpoint_not_relaxed"
    ENDPOINT_RAN_AWAY = "endpoint_ran_away"
    ION_SWAPPED = "ion_swapped"
    FRAMEWORK_COLLAPSED = "framework_collapsed"
    INTERMEDIATE_MINIMUM = "intermediate_minimum"
    EARLY_VERDICT = "early_verdict"
    NOT_CONVERGED = "not_converged"
    UNPHYSICAL_BARRIER = "unphysical_barrier"
    LOWER_SITE_ON_PATH = "lower_site_on_path"
    TOO_MANY_EVALUATIONS = "too_many_evaluations"
    INCONSISTENT_BAND = "inconsistent_band"
    BAND_CONVERGED = "band_converged"
    INCOMPLETE_RESULTS = "incomplete_results"
    NO_RESULTS = "no_results"
    OTHER_MATERIAL = "other_material"
    WEIGHTS_MISSING = "weights_missing"
    WEIGHTS_WRONG = "weights_wrong"
    ENGINE_MISSING = "engine_missing"
    PSEUDOPOTENTIAL_MISSING = "pseudopotential_missing"
    ELECTRONS_NOT_CONVERGED = "electrons_not_converged"
    ENGINE_FAILED = "engine_failed"
    WORKER_DIED = "worker_died"
    UNEXPECTED_ERROR = "unexpected_error"

    @property
    def sentence(self) -> str:
        """The code in one sentence."""
        return _SENTENCES[self]


_SENTENCES: dict[Reason, str] = {
    Reason.PASSED_GATE: "The value lies within the gate.",
    Reason.ABOVE_MAXIMUM: "The value lies above the gate's maximum.",
    Reason.BELOW_MINIMUM: "The value lies below the gate's minimum.",
    Reason.OUTSIDE_TOP: "Better candidates filled the stage's budget.",
    Reason.NO_PERCOLATION: "No path for the mobile ion crosses the crystal at any energy that was scanned.",
    Reason.AWAITING_BUDGET: "The value is known; the budget is shared out once every candidate has reached this stage.",
    Reason.NO_GATE: "The stage has no gate; every value passes.",
    Reason.VALUE_UNKNOWN: "The property is not known for this material, and the gate lets unknown values through.",
    Reason.DUPLICATE: "Another requested id or file is the same material; its row has the results.",
    Reason.CANCELLED: "The campaign was cancelled before this stage was reached.",
    Reason.NOT_FOUND: "The database knows no material of this id.",
    Reason.DEPRECATED: "The database has withdrawn this material.",
    Reason.INVALID_ID: "The text is not a Materials Project id; ids look like mp-1234.",
    Reason.UNREADABLE_STRUCTURE: "The structure file cannot be read.",
    Reason.EMPTY_STRUCTURE: "The structure holds no atoms.",
    Reason.NO_MOBILE_ION: "The structure does not contain the campaign's mobile ion.",
    Reason.PARTIAL_OCCUPANCY: "Some sites are partly occupied; order the structure first.",
    Reason.OCCUPANCY_ABOVE_ONE: "The occupancies of a site add up to more than one.",
    Reason.TOO_MANY_ATOMS: "The structure has more atoms than this stage accepts.",
    Reason.CLOSE_CONTACT: "Two atoms lie closer together than atoms can.",
    Reason.OXIDATION_STATES_UNKNOWN: "No charge-balanced oxidation states could be assigned; give them explicitly.",
    Reason.METALLIC: "The crystal is a metal or has electrons left over, so its atoms have no ionic charges.",
    Reason.MISSING_PARAMETERS: "The bond-valence table has no parameters for a pair of ions in this crystal.",
    Reason.UNSUPPORTED_ELEMENT: "The potential or network was not trained on an element of this crystal.",
    Reason.NON_FINITE_ENERGY: "The potential returned an energy or force that is not a finite number.",
    Reason.NO_INSERTION_HOST: "Without its mobile ions the crystal holds nothing that could take an electron up.",
    Reason.NO_HOPS: "No hops of the mobile ion connect the crystal.",
    Reason.TOO_MANY_HOPS: "The crystal has more symmetry-unique hops than this stage accepts.",
    Reason.ENDPOINT_NOT_RELAXED: "An endpoint of the hop did not reach the force limit.",
    Reason.ENDPOINT_RAN_AWAY: "An endpoint relaxed into another site.",
    Reason.ION_SWAPPED: "Another ion of the same species takes over the hop, so it is not that of one ion.",
    Reason.FRAMEWORK_COLLAPSED: "An atom of the framework left its site, so the crystal is not the one that was given.",
    Reason.INTERMEDIATE_MINIMUM: "The band passes a minimum, and the hops that it consists of could not be told apart.",
    Reason.EARLY_VERDICT: "The band was ended early: its barrier lies below the limit that was asked about.",
    Reason.NOT_CONVERGED: "The calculation ended before it converged, so it has no barrier.",
    Reason.UNPHYSICAL_BARRIER: "The barrier lies outside the range that a potential can be trusted with.",
    Reason.INCONSISTENT_BAND: "The images of the band do not describe one hop in one crystal.",
    Reason.BAND_CONVERGED: "A DFT band that was computed elsewhere converged; its barrier is the stage's value.",
    Reason.INCOMPLETE_RESULTS: "The calculation's folder lacks a part of its results, so it has no barrier.",
    Reason.NO_RESULTS: "The folder holds no results of a nudged elastic band.",
    Reason.OTHER_MATERIAL: "The results belong to another material than the one that they were brought for.",
    Reason.LOWER_SITE_ON_PATH: "The band passes a site that lies lower than its end points, so it is not one hop.",
    Reason.TOO_MANY_EVALUATIONS: "The landscape needs more energies than allowed, even on its coarsest grid.",
    Reason.WEIGHTS_MISSING: "The potential's weights could not be had.",
    Reason.WEIGHTS_WRONG: "The potential's weights do not reproduce the reference energy.",
    Reason.ENGINE_MISSING: "The DFT program is not on this machine.",
    Reason.PSEUDOPOTENTIAL_MISSING: "An element has no pseudopotential that the DFT program could use.",
    Reason.ELECTRONS_NOT_CONVERGED: "The electrons of an image did not converge in any way that was tried.",
    Reason.ENGINE_FAILED: "The DFT program ended with an error.",
    Reason.WORKER_DIED: "The worker process died on this candidate.",
    Reason.UNEXPECTED_ERROR: "The stage failed in a way that it does not know.",
}


class HopflowError(Exception):
    """An error that a user can act on; its text is one sentence that says what to do."""


class CandidateError(HopflowError):
    """A candidate cannot be answered.

    Parameters
    ----------
    message
        One sentence in the user's words that says what is wrong and what to do.
    reason
        The reason code that the ledger keeps.
    """

    reason: Reason = Reason.UNEXPECTED_ERROR

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class StructureError(CandidateError):
    """The structure itself cannot be used (unreadable, empty, disordered, atoms on top of each other)."""

    reason = Reason.UNREADABLE_STRUCTURE


class NoMobileIonError(StructureError):
    """The structure does not contain the mobile ion."""

    reason = Reason.NO_MOBILE_ION


class OxidationStateError(CandidateError):
    """No charge-balanced oxidation states could be assigned."""

    reason = Reason.OXIDATION_STATES_UNKNOWN


class MissingParametersError(CandidateError):
    """The bond-valence table lacks a pair that the crystal needs."""

    reason = Reason.MISSING_PARAMETERS


class NonFiniteEnergyError(CandidateError):
    """A potential returned NaN or infinity."""

    reason = Reason.NON_FINITE_ENERGY


class NoHopsError(CandidateError):
    """No hop of the mobile ion connects the crystal."""

    reason = Reason.NO_HOPS


class NotConvergedError(CandidateError):
    """A relaxation or a band did not converge."""

    reason = Reason.NOT_CONVERGED


class BandError(CandidateError):
    """The images of a band differ in atoms, order or cell, or are too few for a band."""

    reason = Reason.INCONSISTENT_BAND


class WeightsError(HopflowError):
    """The weights of a potential are missing or wrong. Not a candidate's fault: the whole stage cannot run."""

    reason = Reason.WEIGHTS_MISSING
