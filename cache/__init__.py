"""Content, and what is remembered of it. Knows nothing of HTTP."""
