"""`python -m dplit.account`: see `dplit.cli.account`."""

import sys

from dplit.cli.account import main

if __name__ == "__main__":
    sys.exit(main())
