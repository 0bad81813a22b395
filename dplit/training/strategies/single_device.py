"""`DPStrategy`: private training on one device."""

from __future__ import annotations

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from dplit.errors import ConfigurationError
from dplit.training.checkpoint_io import AtomicCheckpointIO
from dplit.training.strategies.private import PrivateHooks


class OneDevice(SingleDeviceStrategy):
    """Lightning's strategy for one device, with a default for every argument and checkpoints written whole.

    Args:
        device: where the module is; the trainer's choice replaces it.
        accelerator: as Lightning passes it.
        checkpoint_io: writes checkpoints; whole or not at all if None.
        precision_plugin: as Lightning passes it.
    """

    def __init__(
        self,
        device: torch.device | str | int = "cpu",
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(device, accelerator, checkpoint_io or AtomicCheckpointIO(), precision_plugin)
        self._devices: list[torch.device] | None = None

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The devices the trainer chose: one."""
        return self._devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        if devices and len(devices) > 1:
            raise ConfigurationError(f"DPStrategy trains on one device, got {len(devices)}; set Trainer(devices=1)")
        if devices:
            self._devices, self._root_device = devices, torch.device(devices[0])


class DPStrategy(PrivateHooks, OneDevice):
    """Trains any LightningModule with differential privacy (DP-SGD) on one device.

    The arguments are those of `PrivateHooks`, then those of `OneDevice` by name.

    Example:
        >>> from dplit import DPStrategy, Target
        >>> strategy = DPStrategy(noise=Target(epsilon=3.0, delta=1e-5), physical_batch_size=32)
        >>> strategy.ledger.steps
        0
    """

    strategy_name = "dp"
