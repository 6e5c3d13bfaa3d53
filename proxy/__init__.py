"""HTTP in, HTTP out: the mirror, what it asks of upstreams, and its command line."""
