"""The page of a run: one HTML file that needs no network. `gather` reads, `health` and `layout` compute, `draw` draws."""
