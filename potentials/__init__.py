"""Machine-learned potentials: registry, weights, checks, energies and forces."""
