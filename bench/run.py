"""All benchmarks, one after the other: `make bench`."""

from __future__ import annotations

import stampede
import warm

if __name__ == "__main__":
    warm.main([])
    stampede.main([])
