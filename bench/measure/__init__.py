"""Measuring: what suites are handed, and one suite at work on it."""
