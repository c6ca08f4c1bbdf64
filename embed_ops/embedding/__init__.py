"""The job: `driver.py` is the command, `pipeline.py` its first page, `steps.py` one unit."""
