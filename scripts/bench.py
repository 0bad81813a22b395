"""What privacy costs: private steps against plain ones, and against Opacus. See `python scripts/bench.py --help`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.benchmark.__main__ import main

    main()
