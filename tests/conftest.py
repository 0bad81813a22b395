"""One thread per test process: two processes on two cores would otherwise wait for one another."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)
