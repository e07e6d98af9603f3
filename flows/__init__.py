"""How jobs chain: the funnel for a chunk of candidates."""
