"""`python -m jobs.neighbors` is `embed-ops neighbors`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("neighbors")
