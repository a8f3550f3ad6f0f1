"""The engine: from a request to stored rows."""
