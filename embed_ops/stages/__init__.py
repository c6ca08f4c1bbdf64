"""Follow-on stages: each fits a model over all vectors of a run, or applies one, or both."""
