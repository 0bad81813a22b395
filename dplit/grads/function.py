"""The autograd functions of the rules."""

from __future__ import annotations

from typing import Any

import torch


class Recorded(torch.autograd.Function):
    """An operation whose backward hands activation and output gradient to the tape.

    Backward itself is not for the tape to watch, which is active then for the sake of checkpointed layers that are
    computed anew.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        backward = cls.__dict__["backward"].__func__

        def unwatched(ctx: Any, *grads: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return backward(ctx, *grads)

        cls.backward = staticmethod(unwatched)  # type: ignore[method-assign]
