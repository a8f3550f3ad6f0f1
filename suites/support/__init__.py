"""What suites share: their base, what they are handed, and how they measure."""
