"""The store: typed records, written and read in small transactions."""
