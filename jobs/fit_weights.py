"""`python -m jobs.fit_weights` is `embed-ops fit-weights`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("fit-weights")
