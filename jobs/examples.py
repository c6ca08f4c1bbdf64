"""`python -m jobs.examples` is `embed-ops examples`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("examples")
