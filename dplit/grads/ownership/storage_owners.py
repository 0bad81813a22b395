"""The owner maps of all tensors of a step, by the memory that they share, so that what is written by one name is read by all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from dplit.grads.ownership.owner_map import NONE, SEVERAL, Owned, compact, joined_over, tidied
from dplit.grads.ownership.present import PRESENT, address_of, storages_of

FEW = 64
"""So many memories are kept before it is asked which of them were freed."""

Layout = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""Bytes of a number, offset, sizes and strides: which numbers of its memory a tensor consists of, and in what order."""


@dataclass
class _Memory:
    """What is known of one storage.

    The weak reference keeps the storage's address from being used again while this is kept.
    """

    reference: StorageWeakRef
    size: int
    """In bytes."""
    whole: Layout
    """The tensor whose map the others are derived from."""
    maps: dict[Layout, Owned]
    number: int
    """Equal for two memories only if the same operations computed them from the same tensors."""
    flat: Tensor | None = None
    """The owner of each number in order, of the size of `whole`, once it was asked for; no map shares its memory."""


class StorageOwners:
    """Owner maps by storage; a tensor whose storage is unknown is a constant. No tensor is kept alive."""

    def __init__(self) -> None:
        self._memories: dict[int, _Memory] = {}
        self._many = FEW
        self._given: dict[int, StorageWeakRef] | None = None
        self._brought_in: set[int] = set()

    def note_present(self, values: Iterable[Tensor] = ()) -> None:
        """Note that the tensors of `PRESENT` are there, so that one which comes from elsewhere later on is known by that.

        Args:
            values: more that are there, among them those that Python's collector does not know, as of a scripted module.
        """
        self._given = storages_of(values)

    def bring_in(self, value: Tensor) -> None:
        """Note that Python made a tensor, whose memory it may share: what tells it is what it holds whenever it is used."""
        self._brought_in.add(address_of(value))

    def came_in(self, value: Tensor) -> bool:
        """Whether no operation made a tensor, and it was not there before."""
        address = address_of(value)
        if self._given is None or address in self._given or address in self._memories:
            return False
        return not PRESENT.has(address)

    def of(self, value: Tensor) -> Owned | None:
        """Return the owner map of a tensor, or None for a constant that nothing was noted of."""
        memory = self._memories.get(address_of(value))
        if memory is None:
            return None
        layout = layout_of(value)
        known = memory.maps.get(layout)
        if known is None:
            known = memory.maps[layout] = _derived(memory, layout)
        return known

    def key(self, value: Tensor) -> int:
        """Return a number that two tensors share only if the same operations computed them from the same tensors."""
        memory = self._memories.get(address_of(value))
        known: object = (address_of(value), value._version) if memory is None else memory.number
        if address_of(value) in self._brought_in:
            known = known, contents_key(value)
        return hash((known, layout_of(value)))

    def put(self, value: Tensor, owned: Owned, number: int = 0) -> None:
        """Note the owner map of a tensor with memory of its own, or of a new view of known memory, and how it was computed."""
        address, layout = address_of(value), layout_of(value)
        memory = self._memories.get(address)
        if memory is None:
            self._forget_freed()
            memory = self._memories[address] = _new(value, layout, number or hash(address))
        memory.maps[layout] = owned
        if layout == memory.whole:
            memory.flat = None

    def _forget_freed(self) -> None:
        """Let go of the maps of memory that is no more, once there are twice as many as after the last time."""
        if len(self._memories) >= self._many:
            self._memories = {k: memory for k, memory in self._memories.items() if not memory.reference.expired()}
            self._many = max(FEW, 2 * len(self._memories))

    def write(self, value: Tensor, owned: Owned, mixed: int, number: int = 0) -> None:
        """Note that the numbers of a tensor were overwritten; every other tensor that shares them has changed, too.

        Args:
            value: the tensor, after the operation.
            owned: its new map.
            mixed: what to write where records decide the order of rows that another name of the memory would show.
            number: how it was computed.
        """
        address, layout = address_of(value), layout_of(value)
        memory = self._memories.get(address)
        number = hash((0 if memory is None else memory.number, number, layout))
        if memory is None or memory.whole == layout or _covers(value):
            self._memories[address] = _new(value, layout, number, {layout: owned})
            return
        flat = _flat(memory, layout[0])
        _assign(flat, layout, torch.where(owned.owner == NONE, mixed, owned.owner) if owned.ordered else owned.owner)
        new = self._memories[address] = _new(value, (layout[0], 0, tuple(flat.shape), (1,)), number)
        new.flat = flat


def layout_of(value: Tensor) -> Layout:
    """Return which numbers of its memory a tensor consists of."""
    return value.element_size(), int(value.storage_offset()), tuple(value.shape), value.stride()


def _new(value: Tensor, whole: Layout, number: int, maps: dict[Layout, Owned] | None = None) -> _Memory:
    storage = value.untyped_storage()
    return _Memory(StorageWeakRef(storage), storage.nbytes(), whole, maps or {}, number)


def _covers(value: Tensor) -> bool:
    """Whether a tensor consists of all numbers of its memory, each once."""
    return value.numel() * value.element_size() == value.untyped_storage().nbytes() and _is_dense(value)


def _is_dense(value: Tensor) -> bool:
    """Whether no number appears twice: sorted by stride, each dimension begins where the one inside it ends."""
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(value.shape, value.stride(), strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def shows_twice(value: Tensor) -> bool:
    """Whether one number of the memory may be several of the tensor, as in an expanded or unfolded one."""
    reach = 0
    for stride, size in sorted((s, n) for n, s in zip(value.shape, value.stride(), strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether some number in memory is one of two tensors."""
    if address_of(a) != address_of(b):
        return False
    bytes_of = torch.zeros(a.untyped_storage().nbytes(), dtype=torch.bool)
    _bytes(bytes_of, a).fill_(True)
    return bool(_bytes(bytes_of, b).any())


def _bytes(whole: Tensor, value: Tensor) -> Tensor:
    """Return the first byte of each number of a tensor, and the others behind it, in a memory of as many bytes."""
    size = value.element_size()
    strides = [s * size for s in value.stride()]
    return whole.as_strided((*value.shape, size), (*strides, 1), value.storage_offset() * size)


def _derived(memory: _Memory, layout: Layout) -> Owned:
    """Return the map of a tensor that is none of the known views of its memory."""
    size, offset, shape, strides = layout
    owner = tidied(_flat(memory, size).as_strided(shape, strides, offset))
    if memory.flat is not None and address_of(owner) == address_of(memory.flat):
        owner = compact(owner).clone().expand(shape)
    return Owned(owner)


def _assign(flat: Tensor, layout: Layout, owner: Tensor) -> None:
    """Write the owners of a tensor's numbers to those of its memory, where one number may be several of the tensor's."""
    _, offset, shape, strides = layout
    part = flat.as_strided(shape, strides, offset)
    if shows_twice(part):
        part.fill_(int(joined_over(owner, range(owner.dim()), SEVERAL, keepdim=False)))
    else:
        part.copy_(owner)


def _flat(memory: _Memory, size: int) -> Tensor:
    """Return the owner of each number of a memory, in order, as numbers of `size` bytes."""
    own_size = memory.whole[0]
    if memory.flat is None:
        memory.flat = _flattened(memory)
    flat = memory.flat
    if own_size == size:
        return flat
    if own_size > size:
        return flat.repeat_interleave(own_size // size)
    return joined_over(flat.unflatten(0, (-1, size // own_size)), [1], mixed=SEVERAL, keepdim=False).clone()


def _flattened(memory: _Memory) -> Tensor:
    owned = memory.maps[memory.whole]
    if owned.ordered:
        raise LookupError("the memory of rows in an order that records decide is read by another name")
    flat = torch.full((memory.size // memory.whole[0],), NONE, dtype=torch.int32)
    if not owned.is_constant:
        _assign(flat, memory.whole, owned.owner)
    return flat


def contents_key(value: Tensor) -> tuple[object, ...]:
    """Return what tells the numbers of a tensor; on the meta device there are none."""
    if value.is_meta:
        return value.shape, value.dtype, b""
    own = value.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    numbers = own.flatten().view(torch.uint8).numpy().tobytes()
    return value.shape, value.dtype, numbers
