"""One module per verb: parse, open a session, one call, exit code."""
