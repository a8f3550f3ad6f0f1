"""The base class of suites, the subjects that they measure, and shared measurement tools."""
