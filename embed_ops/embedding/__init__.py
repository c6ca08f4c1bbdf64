"""The job: `driver.py` is the command, `pipeline.py` the page to read first, `steps.py` one unit."""
