"""The registry API as clients see it, and the processes that serve it."""
