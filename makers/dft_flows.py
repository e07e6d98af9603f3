"""What all flows of DFT jobs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobflow import Flow


def of_category_dft(flow: Flow, metadata: Mapping[str, Any] | None = None) -> Flow:
    """Give the jobs of a flow, and those that they make, the FireWorks category ``dft``.

    Parameters
    ----------
    flow
        The flow; changed in place.
    metadata
        Put on every job.

    Returns
    -------
    Flow
        The same flow.
    """
    from jobflow import JobConfig

    # only this attribute: the rest of a job's configuration is its maker's
    flow.update_config(JobConfig(manager_config={"_category": "dft"}), attributes="manager_config")
    if metadata:
        flow.update_metadata(dict(metadata))
    return flow
