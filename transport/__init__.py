"""The physics of ion transport: structures, bond valence, percolation, hops, landscapes, NEB."""
