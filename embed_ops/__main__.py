"""`python -m embed_ops VERB`: the same as `embed-ops VERB`."""

from embed_ops.commands.cli import main

if __name__ == "__main__":
    main()
