import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from dplit.errors import ConfigurationError
from dplit.models.mlp import MLP

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Toy(L.LightningDataModule):
    """Two classes told apart by one number; 50 training, 30 validation examples."""

    num_features, num_classes = 5, 2

    def __init__(self, examples=50):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(examples, 5, generator=draw)
        self.y = (self.x[:, 0] > 0).long()

    def collate(self, indices):
        return {"x": self.x[indices], "y": self.y[indices]}

    def train_dataloader(self):
        return DataLoader(range(len(self.y)), batch_size=16, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(range(30), batch_size=16, collate_fn=self.collate)

    test_dataloader = val_dataloader


class PerExample(SingleDeviceStrategy):
    """Asks for losses per example, as a DP strategy does, and then averages them."""

    per_example_losses = True

    def training_step(self, *inputs):
        losses = super().training_step(*inputs)
        assert losses.shape == (len(inputs[0]["y"]),)
        return losses.mean()


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, **{"enable_checkpointing": False, "max_epochs": 1, **quiet, **options})


def batch_of(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(n, 5, generator=draw), "y": torch.randint(2, (n,), generator=draw)}


# Losses


def law_losses_are_per_example_exactly_when_asked(model, batch, attached):
    expected = F.cross_entropy(model(batch), batch["y"], reduction="none")
    attached.strategy.per_example_losses = True
    model.trainer = attached
    assert torch.equal(model.training_step(batch, 0), expected)
    attached.strategy.per_example_losses = False
    assert torch.equal(model.training_step(batch, 0), expected.mean())


def test_losses_are_per_example_exactly_when_asked(tmp_path):
    law_losses_are_per_example_exactly_when_asked(MLP([4], 5, 2), batch_of(7), trainer(tmp_path))


def test_mutant_always_the_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(MLP, "_per_example", lambda self: False)
    with pytest.raises(AssertionError):
        law_losses_are_per_example_exactly_when_asked(MLP([4], 5, 2), batch_of(7), trainer(tmp_path))


def test_the_mean_without_a_trainer():
    assert MLP([4], 5, 2).training_step(batch_of(7), 0).shape == ()


def test_an_empty_draw_has_no_losses(tmp_path):
    model, attached = MLP([4], 5, 2, log_train_loss=True), trainer(tmp_path)
    attached.strategy.per_example_losses = True
    model.trainer = attached
    losses = model.training_step(batch_of(0), 0)
    assert losses.shape == (0,)
    assert losses.requires_grad


def test_examples_do_not_meet():
    model = MLP([4, 3], 5, 2, layer_norm=True)
    batch = batch_of(6)
    alone = torch.cat([model({"x": batch["x"][i : i + 1]}) for i in range(6)])
    torch.testing.assert_close(model(batch), alone)


def test_a_strategy_that_asks_gets_losses_per_example(tmp_path):
    fitted = trainer(tmp_path, strategy=PerExample(device=torch.device("cpu")))
    fitted.fit(MLP([4]), datamodule=Toy())
    assert fitted.global_step == 4


# Sizes and layers


@pytest.mark.parametrize("hidden", [[], [3], [4, 3]])
def test_layers_have_the_widths_asked_for(hidden):
    linear = [layer for layer in MLP(hidden, 5, 2).net if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(
        zip([5, *hidden], [*hidden, 2], strict=True)
    )


@pytest.mark.parametrize(("activation", "kind"), [("tanh", torch.nn.Tanh), ("relu", torch.nn.ReLU)])
def test_activation_and_norm_stand_between_layers(activation, kind):
    net = MLP([4], 5, 2, activation=activation, layer_norm=True).net
    assert [type(layer) for layer in net] == [torch.nn.Linear, torch.nn.LayerNorm, kind, torch.nn.Linear]


def test_sizes_come_from_the_data_module_and_the_model_is_built_once(tmp_path):
    model = MLP([4])
    fitted = trainer(tmp_path)
    fitted.fit(model, datamodule=Toy())
    before = model.net
    assert (before[0].in_features, before[-1].out_features) == (5, 2)
    model.configure_model()
    assert model.net is before


def test_sizes_given_win_over_the_data_module(tmp_path):
    model = MLP([4], num_classes=3)
    trainer(tmp_path).fit(model, datamodule=Toy())
    assert model.net[-1].out_features == 3


# A run


def test_a_short_fit_learns_and_logs_exact_means(tmp_path):
    L.seed_everything(0)
    data, model, fitted = Toy(2000), MLP([8], learning_rate=0.3), trainer(tmp_path, max_epochs=3)
    fitted.fit(model, datamodule=data)
    assert set(fitted.callback_metrics) == {"val/loss", "val/accuracy"}
    found = fitted.test(model, datamodule=data, verbose=False)[0]
    batch = data.collate(range(30))
    logits = model.eval()(batch)
    assert found["test/loss"] == pytest.approx(F.cross_entropy(logits, batch["y"]).item(), rel=1e-5)
    assert found["test/accuracy"] == pytest.approx((logits.argmax(1) == batch["y"]).float().mean().item())
    assert found["test/accuracy"] > 0.85


def test_training_loss_is_logged_only_when_asked(tmp_path):
    fitted = trainer(tmp_path)
    fitted.fit(MLP([4], log_train_loss=True), datamodule=Toy())
    assert "train/loss" in fitted.callback_metrics


def test_validation_hands_out_each_example():
    model, batch = MLP([4], 5, 2), batch_of(6)
    model.log_dict = lambda *_, **__: None
    outputs = model.validation_step(batch, 0)
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "logits": (6, 2),
        "target": (6,),
        "loss": (6,),
    }
    assert torch.equal(outputs["loss"], F.cross_entropy(outputs["logits"], batch["y"], reduction="none"))


def test_prediction_gives_probabilities():
    assert torch.allclose(MLP([4], 5, 2).predict_step(batch_of(3), 0).sum(1), torch.ones(3))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_cosine_ends_at_zero_one_step_at_a_time(tmp_path, optimizer):
    rates = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = MLP([4], learning_rate=0.2, optimizer=optimizer)
    trainer(tmp_path, max_epochs=2, callbacks=[Watch()]).fit(model, datamodule=Toy())
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 8)) for t in range(1, 9)])


def test_a_constant_rate_stays(tmp_path):
    fitted = trainer(tmp_path)
    fitted.fit(MLP([4], learning_rate=0.2, schedule="constant", weight_decay=0.01, momentum=0.5), datamodule=Toy())
    group = fitted.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.2, 0.01, 0.5)


def test_frozen_parameters_are_left_out():
    model = MLP([4], 5, 2, schedule="constant")
    model.net[0].requires_grad_(False)
    held = model.configure_optimizers().param_groups[0]["params"]
    assert [id(parameter) for parameter in held] == [id(parameter) for parameter in model.net[-1].parameters()]


# Checkpoints


def test_a_checkpoint_brings_back_model_and_sizes(tmp_path):
    model, fitted = MLP([4], learning_rate=0.2), trainer(tmp_path)
    fitted.fit(model, datamodule=Toy())
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    again = MLP.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(again(batch_of(9)), model(batch_of(9)))
    assert again.hparams == model.hparams
    assert again.learning_rate == 0.2


def test_a_run_resumes_from_a_checkpoint(tmp_path):
    first = trainer(tmp_path)
    first.fit(MLP([4]), datamodule=Toy())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = trainer(tmp_path, max_epochs=2)
    second.fit(MLP([4]), datamodule=Toy(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert second.global_step == 8


# Refusals


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hidden": [4, 0]}, "hidden="),
        ({"num_features": 0}, "num_features=0"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"activation": "gelu"}, "relu"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"optimizer": "lbfgs"}, "sgd or adamw"),
        ({"schedule": "step"}, "cosine or constant"),
    ],
)
def test_wrong_arguments_get_one_line(wrong, says):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        MLP(**wrong)
    assert "\n" not in str(refusal.value)


def test_unknown_sizes_are_refused():
    with pytest.raises(ConfigurationError, match=r"num_features=\.\.\."):
        MLP([4]).configure_model()
    with pytest.raises(ConfigurationError, match="no layers yet"):
        MLP([4])(batch_of(2))


@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")
def test_a_cosine_without_an_end_is_refused(tmp_path):
    endless = trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ConfigurationError, match="constant"):
        endless.fit(MLP([4]), datamodule=Toy())


@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_line_knows_every_argument():
    given = ["--model.hidden=[8]", "--model.learning_rate=0.1", "--model.optimizer=adamw", "--trainer.logger=false"]
    model = LightningCLI(MLP, Toy, run=False, save_config_callback=None, seed_everything_default=0, args=given).model
    assert (model.learning_rate, model.optimizer, list(model.hparams["hidden"])) == (0.1, "adamw", [8])


class Images(Toy):
    """The same, the numbers in squares of pixels."""

    image_shape = (1, 1, 5)

    def collate(self, indices):
        return {"x": self.x[indices].view(-1, *self.image_shape), "y": self.y[indices]}


def test_images_are_their_pixels():
    of_images, of_rows = (MLP(hidden=[3], num_features=5, num_classes=2) for _ in range(2))
    of_rows.load_state_dict(of_images.state_dict())
    chosen = list(range(7))
    assert torch.equal(of_images(Images().collate(chosen)), of_rows(Toy().collate(chosen)))
    model = MLP(hidden=[3])
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, datamodule=Images())
    assert model.hparams["num_features"] == 5
