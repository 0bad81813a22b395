"""Under which runs parameters were trained in this process, by layer, by object, by memory and by value.

A layer carries the mark of its run in itself, also as a copy and through pickle. A parameter is known by its object and by
its memory, in whatever layer it is. What training left in a parameter is known by the values, as `state_dict` and
checkpoints spread them. Nothing else is seen: values that were changed, averaged or cast, or read in another process.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from dplit.privacy import Event, Ledger

MARK = "_dplit_run_id"
"""Name of the attribute that says under which run the weights of a module, or the thresholds of a policy, were trained."""
SAMPLED = 256
"""Numbers of a parameter that its values are known by, evenly spread."""
MOST_VALUES = 100_000
"""Parameters whose values are remembered; the oldest are forgotten first."""

Entries = Mapping[str, Mapping[Event, int]]

_by_object: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_by_memory: dict[int, tuple[StorageWeakRef, str]] = {}
_by_value: OrderedDict[bytes, str] = OrderedDict()
_spent: dict[str, dict[str, dict[Event, int]]] = {}
"""By run, the most that a ledger of it held in this process."""


def run_of(trained: object) -> str | None:
    """Return the run under which a layer, a parameter or a policy was trained; None where that is not known."""
    run = _run_of_parameter(trained) if isinstance(trained, Tensor) else vars(trained).get(MARK)
    return run if isinstance(run, str) else None


def remember(layer: nn.Module, run_id: str) -> None:
    """Remember that the layer's own trainable parameters are trained under a run from now on."""
    vars(layer)[MARK] = run_id
    for parameter in layer.parameters(recurse=False):
        if parameter.requires_grad:
            _by_object[parameter] = run_id
            storage = _storage(parameter)
            if storage is not None:
                _by_memory[storage.cdata] = (storage, run_id)


def remember_values(changed: Iterable[bytes], run_id: str) -> None:
    """Remember what training under a run left in parameters, as `fingerprint` has it."""
    for key in changed:
        _by_value[key] = run_id
        _by_value.move_to_end(key)
    while len(_by_value) > MOST_VALUES:
        _by_value.popitem(last=False)


def remember_spending(ledger: Ledger) -> None:
    """Remember what the run of a ledger has spent by now, at least."""
    most = _spent.setdefault(ledger.run_id, {})
    for split, events in ledger.entries.items():
        for event, times in events.items():
            of_split = most.setdefault(split, {})
            of_split[event] = max(times, of_split.get(event, 0))


def counts(ledger: Ledger, run_id: str) -> bool:
    """Whether a ledger counts what was spent under a run: it is the run's, and no branch of it that knows less."""
    known = _spent.get(run_id, {}).items()
    return ledger.run_id == run_id and all(
        ledger.entries.get(split, {}).get(event, 0) >= times
        for split, events in known
        for event, times in events.items()
    )


def fingerprints(parameters: Iterable[Tensor]) -> set[bytes]:
    """Return the fingerprints of those parameters that have one."""
    return {key for key in map(fingerprint, parameters) if key is not None}


def fingerprint(parameter: Tensor) -> bytes | None:
    """Return what a tensor's values are known by, whatever its shape or whether it was widened to float64.

    None where they tell nothing: one number, all the same, or no numbers in memory.
    """
    if parameter.is_meta or parameter.layout != torch.strided or parameter.numel() < 2:
        return None
    with torch.no_grad():
        flat = parameter.detach().reshape(-1)
        count = min(SAMPLED, len(flat))
        sample = flat[torch.arange(count, device=flat.device) * (len(flat) - 1) // (count - 1)].cpu()
    sample = torch.view_as_real(sample.resolve_conj()) if sample.is_complex() else sample
    numbers = sample.to(torch.float64).contiguous()
    if bool((numbers == numbers.flatten()[0]).all()):
        return None
    return hashlib.sha256(f"{len(flat)}:".encode() + numbers.numpy().tobytes()).digest()


def _run_of_parameter(parameter: Tensor) -> str | None:
    run: str | None = _by_object.get(parameter)
    if run is None:
        run = _run_of_memory(parameter)
    key = fingerprint(parameter) if run is None and _by_value else None
    return run if key is None else _by_value.get(key)


def _run_of_memory(parameter: Tensor) -> str | None:
    storage = _storage(parameter)
    known = None if storage is None else _by_memory.get(storage.cdata)
    return None if known is None or known[0].expired() else known[1]


def _storage(parameter: Tensor) -> StorageWeakRef | None:
    try:
        return StorageWeakRef(parameter.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None
