"""Before a run and after it: predict, search, evaluate, show."""
