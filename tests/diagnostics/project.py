"""A small fit under DPStrategy with diagnostics, and the figures of its records by plain loops."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import Flat
from dplit.clipping.policy import ClippingPolicy
from dplit.diagnostics import SubgroupDiagnostics
from dplit.diagnostics.clipping_effect import Tally
from dplit.grads import Tape
from tests.lightning import Data, Linear, trainer
from tests.oracle import loop_gradients

GROUPS = ("a", "b", "c", "absent")
RECORDS = 20
SIZE = 48


class Net(Linear):
    """A classifier with dropout."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.3)
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self.net(batch["x"]), "target": batch["y"], "loss": self.losses(batch)}


def fit(
    diagnostics: Callback | None = None,
    policy: ClippingPolicy | None = None,
    module: Any = None,
    train: Any = None,
    callbacks: tuple[Callback, ...] = (),
    batch: int = 16,
    strategy: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    made = dplit.DPStrategy(
        policy or Flat(0.5), 1.0, **{"physical_batch_size": 7, "groups": GROUPS, "noise_seed": 5, **(strategy or {})}
    )
    found = ([] if diagnostics is None else [diagnostics]) + list(callbacks)
    run = trainer(made, callbacks=found, **options)
    run.fit(
        Net() if module is None else module,
        DataLoader(train or Data(SIZE), batch_size=batch, shuffle=True),
        DataLoader(Data(30), batch_size=8),
    )
    return run


def public(**options: Any) -> SubgroupDiagnostics:
    return SubgroupDiagnostics(declared_public=True, **{"records": RECORDS, **options})


def rows(path: str = "diagnostics.csv", epoch: int = 0) -> dict[tuple[str, str, str], float]:
    with Path(path).open() as file:
        found = [row for row in csv.DictReader(file) if int(row["epoch"]) == epoch]
    return {(row["split"], row["group"], row["metric"]): float(row["value"]) for row in found}


def same(found: dict[Any, float], expected: dict[Any, float], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (math.isnan(value) and math.isnan(found[key])) or abs(found[key] - value) <= tolerance, (
            key,
            found[key],
            value,
        )


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.double().flatten(1) for g in gradients.values()], 1)


def angle(a: Tensor, b: Tensor) -> float:
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else math.nan


def expected_of(grads: Tensor, clipped: Tensor, is_clipped: Tensor, total: Tensor) -> dict[str, float]:
    """The figures of m records from their gradients and clipped gradients, each `(m, d)`, by plain numpy."""
    if not len(grads):
        names = ["not_finite", "norm_mean", "norm_q1", "norm_median", "norm_q3", "clipped", "contribution"]
        nothing = dict.fromkeys([*names, "direction_cosine", "direction_error", "steering_cosine"], math.nan)
        return {"n": 0.0, **nothing}
    g, c, norms = grads.mean(0), clipped.mean(0), grads.norm(dim=1).numpy()
    fits = [float((s * c - g).norm() / g.norm()) for s in (0.0, max(0.0, float(g @ c / (c @ c))))]
    return {
        "n": float(len(grads)),
        "not_finite": 0.0,
        "norm_mean": float(norms.mean()),
        **{f"norm_{q}": float(np.quantile(norms, p)) for q, p in {"q1": 0.25, "median": 0.5, "q3": 0.75}.items()},
        "clipped": float(is_clipped.double().mean()),
        "contribution": float(clipped.norm(dim=1).mean()),
        "direction_cosine": angle(g, c),
        "direction_error": min(fits),
        "steering_cosine": angle(total, g),
    }


def oracle(module: Any, policy: Any, indices: list[int]) -> dict[tuple[str, str, str], float]:
    """One backward per record, in eval mode, and each record clipped by hand."""
    data, chosen = Data(SIZE), torch.tensor(indices)
    module.eval()
    grads = flat(
        loop_gradients(module, lambda i: module.losses({k: v[None] for k, v in data[indices[i]].items()}), len(indices))
    )
    group, norms = data.group[chosen], grads.norm(dim=1)
    bounds = torch.tensor([policy.bounds[name] for name in policy.groups])[group]
    clipped = grads * (bounds / norms).clamp(max=1.0)[:, None]
    picked = {name: group == k for k, name in enumerate(GROUPS)} | {"": group >= 0}
    return {
        ("train", name, metric): value
        for name, mine in picked.items()
        for metric, value in expected_of(grads[mine], clipped[mine], (norms > bounds)[mine], clipped.sum(0)).items()
    }


def indices_of(size: int = SIZE, records: int = RECORDS) -> list[int]:
    return sorted(np.random.default_rng(0).choice(size, min(size, records), replace=False).tolist())


def batch_of(n: int = 24) -> dict[str, Tensor]:
    data = Data(n)
    return {"x": data.x, "y": data.y, "group": data.group}


def tallied(policy: ClippingPolicy, batch: dict[str, Tensor], module: Any) -> dict[tuple[str, str], float]:
    with Tape(module.net, len(batch["x"])) as tape:
        losses = module.losses(batch)
    if not policy.groups:
        policy.declare(GROUPS)
    tally = Tally(policy, GROUPS, rate=0.1)
    tally.add(tape.backward(losses), batch["group"])
    return {(row.group, row.metric): row.value for row in tally.rows()}
