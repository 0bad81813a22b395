"""The proof of a fit: every path that a step takes is followed once, before a gradient of it is used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError
from dplit.grads.batch_layout import BatchLayout
from dplit.grads.ownership.batch_owners import BatchOwners
from dplit.grads.ownership.blame import Blame
from dplit.grads.ownership.harmless import Harmless
from dplit.grads.ownership.ownership import Ownership, unfollowed
from dplit.grads.ownership.present import PRESENT
from dplit.grads.ownership.python_reads import Answers, Read
from dplit.grads.ownership.random_state import RandomState, draw_again, random_state
from dplit.grads.ownership.read_trials import Run, without_effect
from dplit.grads.per_example import PerExample
from dplit.grads.tape.path import Path
from dplit.grads.tape.tape import Tape
from dplit.grads.types import Batch, Losses

T = TypeVar("T")

REMEDY = (
    "return losses of shape (n,), each of its own example: no statistics of the batch (BatchNorm, means over its tokens, "
    "weighted means), no pairs of examples, no order or count of others"
)


class Proof:
    """Certificates of the paths that steps have taken: on each, loss and gradient of an example depend on that example alone.

    A step on a path that is not known is run again with every operation followed; it is that run's gradients that are used.

    Args:
        owners: whose the numbers of a batch are.
        harmless: the places at which Python may look at values that depend on examples.
        unseen: a context in which a run leaves no trace beside its result.

    Attributes:
        random_rows: whether random numbers drawn in n rows are taken for the examples' own.
    """

    def __init__(
        self,
        owners: BatchOwners | None = None,
        harmless: Harmless | None = None,
        unseen: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.owners = owners or BatchOwners()
        self.harmless = harmless or Harmless()
        self.unseen = unseen
        self.random_rows = True
        self._known: set[object] = set()

    @property
    def paths(self) -> int:
        """How many paths were certified."""
        return len(self._known)

    def record(self, module: nn.Module, losses: Losses, batch: Batch, examples: int) -> tuple[Tensor, PerExample]:
        """Return losses, detached, and gradients of a batch, recorded on a path that is certified.

        Raises:
            CoupledExamples: some example's loss or gradient depends on another.
            PrivacyError: Python decides by values of the examples at a place that was not declared harmless.
            UnsupportedOperation: as the tape.
        """
        state = random_state()
        with self.owners.tape(module, batch, examples, self.random_rows) as tape:
            value = losses(batch, examples)
        gradients = tape.backward(value)
        if examples == 1 or self._is_known(_path(tape)):
            return value.detach(), gradients
        del value, gradients, tape
        with self.unseen():
            return self._certified(module, losses, batch, examples, state)

    def _is_known(self, path: Path) -> bool:
        return path.digest in self._known or (path.digest, path.values) in self._known

    def _judge_reads(self, reads: list[Read], run: Run) -> bool:
        """Let places pass that are known, declared, or from which nothing of losses and gradients follows.

        Args:
            reads: what Python read.
            run: runs the step again with other answers.

        Returns:
            Whether some place passes by trial, for this run and others in which Python decided the same.

        Raises:
            PrivacyError: another place, named by file and line.
        """
        self.harmless.found.clear()
        open_reads = [read for read in reads if self.harmless.why(read) is None]
        if open_reads:
            after = random_state()
            with self.unseen():
                self.harmless.found |= without_effect(open_reads, run)
            draw_again(after)
        self.harmless.check(reads)
        return bool(open_reads)

    def _certified(
        self, module: nn.Module, losses: Losses, batch: Batch, examples: int, state: RandomState
    ) -> tuple[Tensor, PerExample]:
        """Certify a step; where random rows turn out to be for all examples, with random numbers as constants."""
        try:
            return self.certify(module, losses, batch, examples, state)
        except MixedGradients:
            if not self.random_rows:
                raise
            self.random_rows = False
            self._known.clear()
        return self.certify(module, losses, batch, examples, state)

    def certify(
        self, module: nn.Module, losses: Losses, batch: Batch, examples: int, state: RandomState | None = None
    ) -> tuple[Tensor, PerExample]:
        """Run a step with every operation followed; remember its path, and return losses and gradients.

        Args:
            module: the model.
            losses: computes the losses of a batch.
            batch: the batch.
            examples: n.
            state: from which random numbers are drawn; the present one if None.

        Raises:
            CoupledExamples, PrivacyError, UnsupportedOperation: as `record`.
        """
        state = random_state() if state is None else state
        return self._with_present(lambda: self._certify(module, losses, batch, examples, state))

    def _certify(
        self, module: nn.Module, losses: Losses, batch: Batch, examples: int, state: RandomState
    ) -> tuple[Tensor, PerExample]:
        draw_again(state)
        with self._following(module, batch, examples) as ownership:
            with self.owners.tape(module, batch, examples, self.random_rows) as tape:
                value = losses(batch, examples)
            with unfollowed():
                _check_losses(ownership, value)
            gradients = tape.backward(value)
            with unfollowed():
                _check_gradients(ownership, gradients)
        key = partial(self._key, module, losses, batch, examples, state)
        reads = ownership.reads
        tried = self._judge_reads(reads, lambda answers: key(answers, ownership.most_in_trials))
        if not ownership.conditional:
            path = _path(tape)
            self._known.add((path.digest, path.values) if tried else path.digest)
        return value.detach(), gradients

    def _with_present(self, run: Callable[[], T]) -> T:
        """Run; if it is refused, and used a tensor that may be newer than the last look at all of them, look and run again."""
        if not PRESENT.is_known:
            PRESENT.look()
            return run()
        with PRESENT.watched():
            try:
                with self.unseen():
                    return run()
            except DplitError:
                if not PRESENT.look_again():
                    raise
        return run()

    def _following(
        self, module: nn.Module, batch: Batch, examples: int, answers: Answers | None = None, most: int | None = None
    ) -> Ownership:
        """Return what follows a step on a batch; a tensor that comes in from elsewhere is known by that."""
        ownership = Ownership(examples, answers, most)
        ownership.memory.note_present((*module.parameters(), *module.buffers()))
        self.owners.tell(ownership, batch)
        return ownership

    def _key(
        self,
        module: nn.Module,
        losses: Losses,
        batch: Batch,
        examples: int,
        state: RandomState,
        answers: Answers,
        most: int,
    ) -> int:
        """Return what tells how losses and gradients of a step were computed, where Python gets other answers."""
        draw_again(state)
        with self._following(module, batch, examples, answers, most) as ownership:
            with self.owners.tape(module, batch, examples, self.random_rows) as tape:
                value = losses(batch, examples)
            gradients = tape.backward(value)
            with unfollowed():
                keys = [(name, ownership.memory.key(part)) for name, part in gradients.tensors()]
                return hash((ownership.memory.key(value), *keys))

    def transferred(
        self, transfer: Callable[[Batch], Batch], batch: Batch, examples: int, collated: BatchLayout | None
    ) -> Batch:
        """Return a batch after the model's transfer hooks, which must leave each row to its example.

        Args:
            transfer: runs the hooks.
            batch: as the collate function made it.
            examples: n.
            collated: the layout of such batches.

        Raises:
            CoupledExamples: a row of the batch afterwards depends on other examples.
            PrivacyError: a hook decides by values of the examples.
        """
        ownership = Ownership(examples)
        replace(self.owners, layout=collated).tell(ownership, batch)
        with ownership:
            moved = transfer(batch)
        for path, value in self.owners.of_examples(moved, examples):
            found = ownership.mixed_at(value) if value.dim() and len(value) == examples else _if_owned(ownership, value)
            if found is not None:
                raise CoupledExamples(_message(f"row {found[0]} of {path}, after the transfer hooks,", found[1]))
        self.harmless.check(ownership.reads)
        return moved

    def check_losses(self, module: nn.Module, losses: Losses, batch: Batch, examples: int) -> None:
        """Follow the losses of a step alone, for gradients that one backward for each loss computes.

        Raises:
            CoupledExamples, PrivacyError: as `record`.
        """
        state = random_state()

        def follow(answers: Answers, most: int | None = None) -> tuple[Ownership, Tensor]:
            draw_again(state)
            with self._following(module, batch, examples, answers, most) as ownership:
                return ownership, losses(batch, examples)

        def judge() -> None:
            ownership, value = follow({})
            _check_losses(ownership, value)
            most = ownership.most_in_trials
            self._judge_reads(ownership.reads, lambda answers: _key(*follow(answers, most)))

        with self.unseen():
            self._with_present(judge)


class MixedGradients(CoupledExamples):
    """Each loss depends on its own example, but what was recorded of a gradient depends on several."""


def _path(tape: Tape) -> Path:
    assert tape.path is not None
    return tape.path


def _check_losses(ownership: Ownership, losses: Tensor) -> None:
    """Check that loss i depends on example i alone.

    Raises:
        CoupledExamples: naming the loss, another example, the operation and the line.
    """
    found = ownership.mixed_at(losses)
    if found is not None:
        raise CoupledExamples(_message(f"the loss of example {found[0]}", found[1]))


def _check_gradients(ownership: Ownership, gradients: PerExample) -> None:
    """Check that what was recorded of the gradient of example i depends on example i alone.

    Raises:
        CoupledExamples: naming the parameter, the example, the operation and the line.
    """
    for name, value in gradients.tensors():
        rows = value.dim() > 0 and len(value) == ownership.examples
        found = ownership.mixed_at(value) if rows else _if_owned(ownership, value)
        if found is not None:
            raise MixedGradients(_message(f"the gradient of example {found[0]} with respect to {name}", found[1]))


def _if_owned(ownership: Ownership, value: Tensor) -> tuple[int, Blame | None] | None:
    """Return a finding for a tensor that all examples' gradients share, if it depends on any of them."""
    owned = ownership.of(value)
    return None if owned.is_constant else (0, ownership.blame(int(owned.owner.min())))


def _key(ownership: Ownership, value: Tensor) -> int:
    return ownership.memory.key(value)


def _message(what: str, blame: Blame | None) -> str:
    if blame is None:
        return f"{what} depends on another example, whose numbers stand in its place: rows were moved; {REMEDY}"
    if blame.examples is None and blame.why:
        return f"{what} depends on {blame.operation} (at {blame.place}): {blame.why}"
    return f"{what} depends on other examples: {blame}; {REMEDY}"
