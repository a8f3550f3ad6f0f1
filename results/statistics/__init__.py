"""Statistics over seeds: intervals, paired comparisons, families of tests, ranks, power."""
