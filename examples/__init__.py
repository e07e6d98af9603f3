"""Demo crystals, example campaigns and fixed lists of materials."""
