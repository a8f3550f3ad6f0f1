"""Equal tuning: as many trials for each router, over the same ranges and its own."""
