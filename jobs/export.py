"""`python -m jobs.export` is `embed-ops export`, from a checkout."""

from embed_ops.commands.cli import run_verb

if __name__ == "__main__":
    run_verb("export")
