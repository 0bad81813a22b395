"""`python -m dplit`: see `dplit.cli.main`."""

import sys

from dplit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
