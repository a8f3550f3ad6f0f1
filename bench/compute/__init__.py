"""Counting FLOPs, and giving every router the same of them."""

from bench.compute.flops import FlopCounter, FlopReport, count_flops

__all__ = ["FlopCounter", "FlopReport", "count_flops"]
