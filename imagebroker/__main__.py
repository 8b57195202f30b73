"""`python -m imagebroker`: the command."""

import sys

from imagebroker.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
