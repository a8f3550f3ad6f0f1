"""What papers claim of routers, and what the runs of a study say to it."""
