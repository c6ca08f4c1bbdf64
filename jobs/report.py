"""`python -m jobs.report` is `embed-ops report`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("report")
