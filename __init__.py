"""hopflow: a screening funnel for solid ion conductors, from bond valence to DFT-NEB."""

__version__ = "0.1.0"
