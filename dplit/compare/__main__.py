"""`python -m dplit.compare`: see `dplit.cli.commands.compare`."""

import sys

from dplit.cli.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
