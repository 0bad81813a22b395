"""`python -m dplit.fit`: see `dplit.cli.commands.fit`."""

import sys

from dplit.cli.commands.fit import main

if __name__ == "__main__":
    sys.exit(main())
