"""What privacy costs: workloads × methods, taking turns in one run. Start it with `python scripts/bench.py --help`."""
