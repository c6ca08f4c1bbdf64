"""`python -m jobs.fit_graph` is `embed-ops fit-graph`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("fit-graph")
