"""The gate: bounds, no percolation, budgets."""

from hopflow.flows.gate import Gate, Status, judge, share_budget
from hopflow.transport.errors import Reason
from hypothesis import given
from hypothesis import strategies as st


def test_bounds_are_inclusive() -> None:
    gate = Gate("barrier_1d_eV", maximum=0.5, minimum=0.1)
    assert judge(0.5, gate).status is Status.PASSED
    assert judge(0.1, gate).status is Status.PASSED
    above = judge(0.5000001, gate)
    assert (above.status, above.reason, above.threshold) == (Status.REJECTED, Reason.ABOVE_MAXIMUM, 0.5)
    assert judge(0.0999, gate).reason is Reason.BELOW_MINIMUM


def test_no_path_is_rejected_by_a_gate_and_let_through_without_one() -> None:
    assert judge(None, Gate("barrier_3d_eV", maximum=5.0)).reason is Reason.NO_PERCOLATION
    assert judge(float("inf"), Gate("barrier_3d_eV", top=3)).status is Status.REJECTED
    assert judge(None, Gate("barrier_3d_eV")).status is Status.PASSED


def test_nan_never_passes_a_bound() -> None:
    assert judge(float("nan"), Gate("barrier_1d_eV", maximum=1.0)).status is Status.REJECTED
    assert judge(float("nan"), Gate("barrier_1d_eV", minimum=1.0)).status is Status.REJECTED


def test_a_budget_defers_the_verdict() -> None:
    assert judge(0.2, Gate("barrier_1d_eV", top=3)).status is Status.PENDING


def test_larger_free_volume_is_better() -> None:
    gate = Gate("connected_free_volume_fraction", top=1)
    verdicts = share_budget({"a": 0.1, "b": 0.3}, gate)
    assert verdicts["b"].status is Status.PASSED
    assert verdicts["a"].reason is Reason.OUTSIDE_TOP
    assert verdicts["a"].threshold == 0.3


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0, 5), max_size=12), st.integers(1, 15))
def test_budget_lets_the_best_through(values: dict[str, float], top: int) -> None:
    verdicts = share_budget(values, Gate("barrier_1d_eV", top=top))
    passed = [values[name] for name, v in verdicts.items() if v.status is Status.PASSED]
    lost = [values[name] for name, v in verdicts.items() if v.status is Status.REJECTED]
    assert len(passed) == min(top, len(values))
    assert len(passed) + len(lost) == len(values)
    assert not lost or max(passed) <= min(lost)
