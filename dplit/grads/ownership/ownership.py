"""Following which examples each number of a step depends on, operation by operation, whatever the numbers are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from dplit.grads.ownership import experiment, registry
from dplit.grads.ownership.blame import Blame, is_own, place
from dplit.grads.ownership.call import Call, tensors_of
from dplit.grads.ownership.owner_map import (
    NONE,
    SEVERAL,
    Meaning,
    Owned,
    Ranks,
    RowNumbers,
    Shuffle,
    common_source,
    compact,
    constant,
    first_pair,
    joined_over,
    of_dim,
    tidied,
)
from dplit.grads.ownership.python_reads import READS_VALUE, Answers, EndlessStep, FunctionReads, Read
from dplit.grads.ownership.storage_owners import StorageOwners, contents_key, layout_of, overlap, shows_twice
from dplit.grads.types import Result

registry.load()

CAME_IN = (
    "no operation that is seen here made it, and it was not there before the step (another thread, DLPack, pickle, perhaps); "
    "compute it in this thread with torch"
)

KEEPS = frozenset({"_to_copy", "clone", "detach", "alias"})
SHOWS = frozenset({"view", "_unsafe_view", "unsqueeze", "expand", "squeeze"})
"""Operations after which numbers stand for what they stood for; those of the second kind may repeat them."""

BUILT_IN = frozenset({"aten", "prims", "torchvision"})
"""Where operations are defined that may be tried out: they do not look for particular values."""

SPLITS = frozenset({"unbind", "split", "chunk", "tensor_split", "split_with_sizes", "unsafe_split", "unsafe_chunk"})
"""Operations that return as many tensors as a dimension has places."""

VIEWS_BY_MEMORY = frozenset(
    f"aten::{name}" for name in ("as_strided", "as_strided_", "squeeze_", "unsqueeze_", "t_", "transpose_")
)
"""Operations that show known memory under other sizes and strides, perhaps in place of the former ones."""


class Ownership(TorchDispatchMode):
    """Knows, while active, which example each number of each tensor depends on.

    A number depends on an example if some operation combined it with one of the example's numbers, whatever the values
    were: a product with 0 depends on both factors. Tensors that were there before, other than those given to `own`, depend on
    no example. Operations are seen below autograd, so that functions written in Python, C++ or TorchScript are followed alike,
    and so is a backward.

    Args:
        examples: n.
        answers: what Python is given in place of the values that it reads at some places, to see what follows from them.
        most: how many operations may be carried out, for with other answers a step may never end.

    Attributes:
        operations: how many were carried out.
        blames: the operations that mixed examples, in order.
        reads: the places at which Python looked at a value that depends on examples.
        conditional: whether some answer holds for these records only.

    Example:
        >>> import torch
        >>> x = torch.randn(3, 2)
        >>> with Ownership(3) as ownership:
        ...     ownership.own_rows(x)
        ...     centred = x - x.mean(0)
        >>> ownership.alone(x.sum(1)), ownership.alone(centred)
        (True, False)
        >>> str(ownership.blames[0]).startswith("mean at")
        True
    """

    def __init__(self, examples: int, answers: Answers | None = None, most: int | None = None) -> None:
        super().__init__()
        self.examples = examples
        self.most = most
        self.operations = 0
        self.blames: list[Blame] = []
        self.reads: list[Read] = []
        self.conditional = False
        self.python_data = False
        self._draws = 0
        self._error: Exception | None = None
        self.memory = StorageOwners()
        self._function_reads = FunctionReads(self, answers or {})

    def __enter__(self) -> Self:
        """Start following, in this thread, backward included."""
        self._threads = torch.autograd.set_multithreading_enabled(False)
        self._threads.__enter__()
        self._function_reads.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop following; what was found stays.

        Raises:
            Exception: what went wrong when an operation was noted, if the step went on in spite of it.
        """
        super().__exit__(kind, error, traceback)
        self._function_reads.__exit__(kind, error, traceback)
        self._threads.__exit__(kind, error, traceback)
        if kind is None and self._error is not None:
            raise self._error

    # -- what is known ---------------------------------------------------------------------------------------------------

    def own(self, value: Tensor, owned: Owned) -> None:
        """Note the owner map of a tensor that was there before the step."""
        self.memory.put(value, owned)

    def own_rows(self, value: Tensor) -> None:
        """Note that row i of a tensor of n rows is example i's."""
        self.own(value, of_dim(value.shape, 0, torch.arange(self.examples)))

    def own_python_data(self, value: Tensor) -> None:
        """Note that a tensor was made by Python of data that were no tensors: row i is example i's if there are n of them."""
        if value.dim() and len(value) == self.examples:
            self.own_rows(value)
        else:
            self.own_unknown(value, f"a tensor of shape {tuple(value.shape)} that Python made of the batch's own lists")

    def own_unknown(self, value: Tensor, what: str, why: str = "") -> None:
        """Note that it is not known whose the numbers of a tensor are, so that it must not be used."""
        self.blames.append(
            Blame(what, place(), None, why or "whose its numbers are is not known; make it in the collate function")
        )
        self.own(value, Owned(torch.tensor(SEVERAL - len(self.blames) + 1, dtype=torch.int32).expand(value.shape)))

    def of(self, value: Tensor) -> Owned:
        """Return the owner map of a tensor."""
        return self.memory.of(value) or constant(value.shape)

    def alone(self, value: Tensor) -> bool:
        """Whether number i of each slice along the first dimension, of size n, depends on example i only, for all n."""
        return self.mixed_at(value) is None

    def mixed_at(self, value: Tensor) -> tuple[int, Blame | None] | None:
        """Return an example whose slice of a tensor, `(n, ...)`, depends on others, and the operation that made it so.

        The operation is None where the slice belongs to another example alone. Nothing is returned where each slice depends on
        its own example only.
        """
        owned = self.of(value)
        if owned.is_constant:
            return None
        if value.dim() == 0 or len(value) != self.examples or any(order is not None for order in owned.orders[1:]):
            code = int(compact(owned.owner).min()) if owned.owner.numel() else NONE
            return 0, self.blame(code)
        rows = owned.owner.reshape(self.examples, -1) if value.dim() == 1 else _rows(owned.owner)
        own = torch.arange(self.examples, dtype=torch.int32)[:, None]
        allowed = (rows == own) | ((rows == NONE) & (owned.orders[0] is None))
        self.conditional |= owned.ordered
        if bool(allowed.all()):
            return None
        i, k = (int(v) for v in (~allowed).nonzero()[0])
        return i, self.blame(int(rows[i, k]))

    @property
    def most_in_trials(self) -> int:
        """How many operations the same step may have where Python is given other answers."""
        return 2 * self.operations + 100

    def blame(self, code: int) -> Blame | None:
        """Return the operation behind an owner that says several examples; None for another owner."""
        return self.blames[SEVERAL - code] if code <= SEVERAL else None

    # -- one operation ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Result:
        """Carry an operation out, and note which examples its results depend on.

        Raises:
            EndlessStep: it is one more than there may be.
        """
        self.operations += 1
        if self.most is not None and self.operations > self.most:
            raise EndlessStep
        with torch._C.DisableTorchFunction():
            return self._follow(func, args, kwargs or {})

    def _follow(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Result:
        if func._schema.name in VIEWS_BY_MEMORY:
            return func(*args, **kwargs)
        arguments = _bound(func, args, kwargs)
        given = [t for value in arguments.values() for t in tensors_of(value)]
        name = func._schema.name.split("::")[1]
        maps = {id(t): owned for t in given if (owned := self._before(t, name)) is not None}
        depends = any(not owned.is_constant for owned in maps.values())
        rule = registry.rule_of(name) or (registry.POINTWISE if _is_pointwise(func) else None)
        written = [v for a, v in zip(func._schema.arguments, arguments.values(), strict=True) if _is_written(a)]
        keys = {id(t): self.memory.key(t) for t in given}
        untouched = _copied(arguments) if depends and rule is None else None
        try:
            result = func(*args, **kwargs)
        except Exception:
            if depends and not is_own():
                self.reads.append(Read(place(), f"an error of {name}"))
            raise
        with self._errors_kept():
            results = list(tensors_of(result))
            if self._tells_count(name, arguments, maps, result, results) and not is_own():
                self.reads.append(Read(place(), name))
            number = self._number(func, name, arguments, keys, results)
            if depends and name in READS_VALUE and not is_own():
                result = self._function_reads.answer(name, result)
            if depends or name in registry.MAKES_CONSTANTS:
                call = Call(func, arguments, maps, results, SEVERAL - len(self.blames), self.examples, keys)
                self._note(call, rule, untouched, list(tensors_of(written)), number)
            else:
                self._note_constants(name, arguments, given, maps, results, list(tensors_of(written)), number)
        return result

    @contextmanager
    def _errors_kept(self) -> Iterator[None]:
        """Keep an error in noting what an operation did that has run: a step that catches it must not pass."""
        try:
            yield
        except Exception as error:
            self._error = self._error or error
            raise

    def _tells_count(
        self, name: str, arguments: Mapping[str, Any], maps: Mapping[int, Owned], result: Result, results: list[Tensor]
    ) -> bool:
        """Whether Python learns how many rows there are, which records decide: by a list of them, or by a size."""
        if isinstance(result, list | tuple) and name in SPLITS and results:
            owned = maps.get(id(arguments["self"]))
            dim = arguments.get("dim", 0)
            return owned is not None and bool(owned.orders) and owned.orders[dim % len(owned.orders)] is not None
        return name == "bincount" and id(arguments["self"]) in maps and not maps[id(arguments["self"])].is_constant

    def _number(
        self, func: OpOverload, name: str, arguments: Mapping[str, Any], keys: Mapping[int, int], results: list[Tensor]
    ) -> int:
        """Return what tells how results were computed: from what, and by which operation; or what came in from Python."""
        if name in registry.DRAWS or name.removesuffix("_") in registry.DRAWS:
            self._draws += 1
            return hash((func, self._draws, _generator_state(arguments.get("generator"), results)))
        if name.startswith("lift_fresh"):
            self.memory.bring_in(results[0])
            return hash((func, *contents_key(results[0])))
        return hash((func, *(_sketch(v, keys) for v in arguments.values())))

    def _note_constants(
        self,
        name: str,
        arguments: Mapping[str, Any],
        given: list[Tensor],
        maps: Mapping[int, Owned],
        results: list[Tensor],
        written: list[Tensor],
        number: int,
    ) -> None:
        """Note where the values of constants come from that were computed from constants alone."""
        sources = [maps[id(v)].source if id(v) in maps else "given" for v in given]
        if name in registry.DRAWS or name.removesuffix("_") in registry.DRAWS:
            sources = ["drawn"]
        elif name.startswith("lift_fresh"):
            sources = ["given"]
        source = common_source(sources)
        rows = name == "arange" and self._are_row_numbers(results[0], arguments.get("step", 1))
        for value in written:
            self.memory.write(value, constant(value.shape, source=source), NONE, number)
        for k, value in enumerate(results):
            if not any(value is w for w in written):
                found = constant(value.shape, source=source)
                meaning = RowNumbers() if rows else self._meaning(name, given, maps, number)
                self.memory.put(value, replace(found, meaning=meaning), hash((number, k)))

    def _are_row_numbers(self, value: Tensor, step: object) -> bool:
        whole = isinstance(step, int) and not value.is_floating_point()
        return whole and value.shape == (self.examples,) and value.tolist() == list(range(self.examples))

    def _meaning(self, name: str, given: list[Tensor], maps: Mapping[int, Owned], number: int) -> Meaning:
        """Return what a constant stands for: a random order of rows, or what brings them back from it."""
        first = maps[id(given[0])].meaning if given and id(given[0]) in maps else None
        if name == "randperm":
            return Shuffle(number)
        if isinstance(first, Shuffle) and name in ("argsort", "sort"):
            return Ranks(("shuffled", first.key), None)
        kept = KEEPS | SHOWS if isinstance(first, RowNumbers) else KEEPS
        return first if isinstance(first, Shuffle | Ranks | RowNumbers) and name in kept else None

    def _before(self, value: Tensor, name: str) -> Owned | None:
        if self.memory.came_in(value) and not name.startswith("lift_fresh"):
            self.own_unknown(value, f"a tensor of shape {tuple(value.shape)}", CAME_IN)
        try:
            return self.memory.of(value)
        except LookupError as error:
            self.blames.append(Blame("a view", place(), None, str(error)))
            return Owned(torch.tensor(SEVERAL - len(self.blames) + 1, dtype=torch.int32).expand(value.shape))

    def _note(
        self,
        call: Call,
        rule: registry.OwnerRule | None,
        untouched: Mapping[str, Any] | None,
        written: list[Tensor],
        number: int,
    ) -> None:
        """Note the owner maps of what an operation returned or wrote to."""
        found = self._found(call, rule, untouched)
        self.conditional |= call.conditional
        for k, (value, owned) in enumerate(zip(call.results, found, strict=True)):
            if tuple(owned.owner.shape) != tuple(value.shape):
                owned = call.all_mixed(value, f"its rule gave the shape {tuple(owned.owner.shape)}")
            owned = replace(owned, owner=tidied(owned.owner))
            if any(value is w for w in written):
                owned = _written(call, value, owned)
                self.memory.write(value, owned, call.mixed, number)
            else:
                self.memory.put(value, owned, hash((number, k)))
            self._note_mixing(call, owned)
        for value, owned in self._written_beside(call, written):
            self.memory.write(value, owned, call.mixed, number)
            self._note_mixing(call, owned)

    def _written_beside(self, call: Call, written: list[Tensor]) -> list[tuple[Tensor, Owned]]:
        """Return the arguments that were written to and not returned, with their new maps."""
        if call.name in registry.WRITTEN:
            return [(call[name], owned) for name, owned in registry.WRITTEN[call.name](call).items()]
        return [(v, call.all_mixed(v)) for v in written if not any(v is r for r in call.results)]

    def _found(self, call: Call, rule: registry.OwnerRule | None, untouched: Mapping[str, Any] | None) -> list[Owned]:
        try:
            if rule is None:
                if call.operation.namespace not in BUILT_IN:
                    raise NotImplementedError("an operation of one's own has no rule here, and its values are not seen")
                assert untouched is not None
                return experiment.owners(call, untouched, self.examples)
            found = rule(call)
        except (LookupError, RuntimeError, NotImplementedError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            return [call.all_mixed(value, why) for value in call.results]
        return found if isinstance(found, list) else [found] * len(call.results)

    def _note_mixing(self, call: Call, owned: Owned) -> None:
        """Keep the operation's name and line if it is the first at which these examples met."""
        if len(self.blames) == SEVERAL - call.mixed and bool((compact(owned.owner) == call.mixed).any()):
            pair = first_pair(call.owner(v) for v in call.tensors())
            self.blames.append(Blame(call.name, place(), pair, call.why))


def _written(call: Call, value: Tensor, owned: Owned) -> Owned:
    """Return the map of a tensor that was written to.

    Where several of its numbers are one in memory, any of them may stay; where it shares memory with what is read, it may be
    read before it is written to or after.
    """
    by_number = _is_pointwise(call.operation) or call.name == "copy_"
    others = [v for v in call.tensors() if not (by_number and layout_of(v) == layout_of(value)) and v is not value]
    met = [v for v in others if overlap(v, value)]
    if not met and not shows_twice(value):
        return owned
    parts = [joined_over(o, range(o.dim()), call.mixed, keepdim=False) for o in (owned.owner, *map(call.owner, met))]
    return replace(owned, owner=call.together(*parts).expand(value.shape))


def _generator_state(generator: torch.Generator | None, results: list[Tensor]) -> bytes:
    """Return the state of the generator that numbers were drawn from, which tells what was drawn before, and from which seed."""
    device = results[0].device if results else torch.device("cpu")
    if generator is None:
        generator = (
            torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        )
    state: bytes = generator.get_state().numpy().tobytes()
    return state


@cache
def _is_pointwise(func: OpOverload) -> bool:
    """Whether torch marks an operation as acting number by number, or does so for the one that is not in place."""
    namespace, name = func._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    others = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    return torch.Tag.pointwise in func.tags or (
        bool(others) and all(torch.Tag.pointwise in other.tags for other in others if not other._schema.is_mutable)
    )


@contextmanager
def unfollowed() -> Iterator[None]:
    """Compute what is no part of a step, such as with owner maps, while a step is followed."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def _rows(owner: Tensor) -> Tensor:
    """Return the distinct owners of each slice along the first dimension, `(n, k)`."""
    small = compact(owner.movedim(0, -1)).movedim(-1, 0)
    return small.expand(owner.shape[0], *small.shape[1:]).reshape(owner.shape[0], -1)


def _bound(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operation's arguments by the names of its schema, defaults included."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return bound


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with copies of the tensors, for an operation that may write to them."""

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone()
        return [copy(v) for v in value] if isinstance(value, list | tuple) else value

    return {name: copy(value) for name, value in arguments.items()}


def _sketch(value: Any, keys: Mapping[int, int]) -> object:
    """Return what tells an argument from others."""
    if isinstance(value, Tensor):
        return keys[id(value)]
    if isinstance(value, list | tuple):
        return tuple(_sketch(v, keys) for v in value)
    return repr(value) if isinstance(value, int | float | complex) else value if value.__hash__ else type(value)
