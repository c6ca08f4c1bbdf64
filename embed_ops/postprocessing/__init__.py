"""Stages over a finished run: fit, apply, bring together by cluster. Read `driver.py` first."""
