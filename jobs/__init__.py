"""Entry points of a checkout: `python -m jobs.VERB` is `embed-ops VERB`.

The verbs are in `embed_ops/commands/`.
"""
