"""The base of suites, the subjects that they measure, and shared ways to measure."""
