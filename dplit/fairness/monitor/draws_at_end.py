"""What callbacks that draw have in common: when they do."""

from __future__ import annotations

from abc import abstractmethod

from lightning.pytorch import Callback, LightningModule, Trainer


class DrawsAtEnd(Callback):
    """Draws what was seen when fit ends, and when it fails or is stopped."""

    @abstractmethod
    def draw(self) -> None:
        """Draw what was seen so far; called at the end of each fit, whether anything was seen or not."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves."""
        self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the epochs seen before fit failed or was stopped."""
        if trainer.state.fn == "fit":
            self.draw()
