"""Numbers in plain numpy that several parts need."""
