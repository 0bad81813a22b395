"""`python -m dplit.account`: see `dplit.cli.commands.account`."""

import sys

from dplit.cli.commands.account import main

if __name__ == "__main__":
    sys.exit(main())
