"""`python -m jobs.runs` is `embed-ops runs`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("runs")
