"""Refuse a write to a tensor that outlives the training step before it happens, and name the line."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from dplit.errors import CoupledExamples, PrivacyError
from dplit.grads.coupling.lasting_state import LastingState
from dplit.grads.messages import operation_name
from dplit.grads.torch_calls import tensors
from dplit.grads.types import Args, Kwargs, Result, TorchFunction

HARMLESS = {"requires_grad_", "retain_grad", "share_memory_", "rename_", "detach_"}
"""Methods with the name of a write that leave values alone."""
DUNDER_WRITES = {"setitem", "iadd", "isub", "imul", "imatmul", "itruediv", "idiv", "ifloordiv", "imod", "ipow", "iand"}
DUNDER_WRITES |= {"ior", "ixor", "ilshift", "irshift"}
"""Python's operators that write to their left side."""
EXPORTS = {"numpy", "__array__", "__dlpack__", "untyped_storage", "storage", "_typed_storage", "data_ptr"}
"""Methods that hand out the memory of a tensor; what happens to it then is not seen."""
SHARES = {"numpy", "__array__", "as_tensor", "asarray"}
"""Functions by which a tensor and an array of NumPy may share memory."""
DATA: Any = torch.Tensor.data
SETTERS = {getattr(torch.Tensor, name).__set__ for name in ("data", "real", "imag")}
"""What a mode receives when values of a tensor are assigned by a property."""
OUR_CODE = ("torch", "lightning", "dplit", "torchmetrics", "lightning_utilities")
"""Packages that are not the place where a model is written."""

_WRITES: dict[TorchFunction, bool] = {}
_EXPORTS: dict[TorchFunction, bool] = {}


class WriteWatch(TorchFunctionMode):
    """While active, a write in place to a tensor of the lasting state is refused before it happens.

    `t.data`, which has no version to tell a write by, is answered by `t.detach()`, which has the version of `t`. The contents of
    a tensor whose memory is handed out (`t.numpy()`) are compared at the end. Writes that torch functions do not show are
    found by `LastingState.written`.

    Args:
        state: what outlives the step.
        allowed: names of tensors that may be written.

    Raises:
        PrivacyError: a write, by the operation, the tensor's name and the line.
    """

    def __init__(self, state: LastingState, allowed: Collection[str] = ()) -> None:
        super().__init__()
        self.state = state
        self.allowed = allowed
        self._names: dict[int, str] | None = None
        self._exported: dict[str, tuple[Tensor, Tensor]] = {}
        self._shared: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Look at functions that write or hand out memory, and leave the others as they are."""
        writes = _WRITES.get(func)
        if writes is None:
            writes = _learn(func)
        if writes or (kwargs and (kwargs.get("out") is not None or kwargs.get("inplace"))):
            self._check(func, args, kwargs or {})
        elif _EXPORTS[func] and args and self._name(args[0]) is not None:
            return self._export(func, args, kwargs or {})
        result = func(*args, **kwargs) if kwargs else func(*args)
        if getattr(func, "__name__", "") in SHARES:
            self._shared += [(t, t.detach().clone()) for t in tensors([*args, result], {}) if t.layout == torch.strided]
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop watching.

        Raises:
            PrivacyError: NumPy wrote to the memory of a tensor.
        """
        super().__exit__(kind, error, traceback)
        if error is None and any(not _same(t, before) for t, before in self._shared):
            raise PrivacyError(
                "training_step lets NumPy write to the memory of a tensor, so that what the tensor depends on is not seen; write "
                "to a copy, x.numpy().copy(), or with torch"
            )

    def exported_and_written(self) -> list[str]:
        """Return the names of tensors that were written by way of memory that was handed out; they get their values back."""
        written = [name for name, (t, before) in self._exported.items() if not torch.equal(t, before)]
        for name in written:
            t, before = self._exported[name]
            with torch.no_grad():
                t.copy_(before)
        return written

    def _check(self, func: TorchFunction, args: Args, kwargs: Kwargs) -> None:
        for t in _targets(args, kwargs):
            name = self._name(t)
            if name is not None and name not in self.allowed:
                self._check_batch_norm(name)
                raise written_error(name, f"by {operation_name(func)} at {place()}")

    def _check_batch_norm(self, name: str) -> None:
        layer, _, buffer = name.rpartition(".")
        norm = self.state.modules.get(layer)
        if buffer == "num_batches_tracked" and isinstance(norm, _BatchNorm):
            raise CoupledExamples(
                f"{layer} is a {type(norm).__name__} in training mode, which mixes the examples of a batch and keeps their "
                "statistics; use GroupNorm or LayerNorm, or hold it in eval mode"
            )

    def _export(self, func: TorchFunction, args: Args, kwargs: Kwargs) -> Result:
        if func == DATA.__get__:
            return args[0].detach()
        name = self._name(args[0])
        assert name is not None
        t = self.state.tensors[name]
        if name not in self._exported and t.layout == torch.strided:
            self._exported[name] = t, t.detach().clone()
        return func(*args, **kwargs)

    def _name(self, value: object) -> str | None:
        """Return the name of the lasting tensor that shares its memory with this one, if one does."""
        if not isinstance(value, Tensor):
            return None
        try:
            address = value.untyped_storage().data_ptr()
        except (
            RuntimeError,
            NotImplementedError,
            ValueError,
        ):  # within torch.func or before a lazy layer's first call: no memory
            return None
        if self._names is None:
            self._names = self.state.storages()
        return self._names.get(address)


def _same(value: Tensor, before: Tensor) -> bool:
    """Whether a tensor has the same bits as before."""
    return bool((value.detach().eq(before) | (value.detach().ne(value) & before.ne(before))).all())


def written_error(name: str, how: str) -> PrivacyError:
    """Return the refusal of a tensor that was written in a training step."""
    return PrivacyError(
        f"training_step writes to {name} ({how}), which stays when the step is over, so that it would tell of the records, or of "
        "how many were drawn; compute it outside of training, or in on_train_batch_end from parameters alone (counters, moving "
        "averages of weights), or name it in DPStrategy(scratch=[...]) to have it put back after every physical batch"
    )


def place() -> str:
    """Return file and line of the innermost code that is the model's own, not torch's or Lightning's."""
    frames = list(_frames())
    for filename, line in frames:
        if not any(f"/{package}/" in filename for package in OUR_CODE):
            return f"{Path(filename).name}:{line}"
    filename, line = frames[-1]
    return f"{Path(filename).name}:{line}"


def _frames() -> Iterator[tuple[str, int]]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_filename.replace("\\", "/"), frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]


def _targets(args: Args, kwargs: Kwargs) -> list[Tensor]:
    """Return the tensors that a function which writes may write to."""
    if kwargs.get("out") is not None:
        return tensors([kwargs["out"]], {})
    named = [kwargs[key] for key in ("input", "self", "tensor") if key in kwargs]
    return tensors([*args[:1], *named], {})


def _learn(func: TorchFunction) -> bool:
    """Note once, for a function, whether it writes and whether it hands out memory; return whether it writes."""
    name = getattr(func, "__name__", "")
    dunder = name.startswith("__") and name.endswith("__")
    writes = name.strip("_") in DUNDER_WRITES if dunder else name.endswith("_") and name not in HARMLESS
    _EXPORTS[func] = name in EXPORTS or func == DATA.__get__
    _WRITES[func] = writes or func in SETTERS
    return _WRITES[func]
