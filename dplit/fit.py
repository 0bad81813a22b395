"""`python -m dplit.fit RECIPE [overrides]`: see `dplit.cli.fit`."""

import sys

from dplit.cli.fit import main

if __name__ == "__main__":
    sys.exit(main())
