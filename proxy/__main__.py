"""`python -m entrepot.proxy`: the same as `entrepot`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
