"""Settings for all tests: hypothesis draws the same examples every time, and no example has a deadline."""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("repeatable")
