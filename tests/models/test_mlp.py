"""The layers and sizes of the multilayer perceptron."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from dplit.errors import ConfigurationError
from dplit.models.mlp import MLP
from tests.models.toy import Toy, batch_of, trainer


def test_examples_do_not_meet():
    model = MLP([4, 3], 5, 2, layer_norm=True)
    batch = batch_of(6)
    alone = torch.cat([model({"x": batch["x"][i : i + 1]}) for i in range(6)])
    torch.testing.assert_close(model(batch), alone)


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


def test_a_checkpoint_brings_back_model_and_sizes(tmp_path):
    model, fitted = MLP([4], learning_rate=0.2), trainer(tmp_path)
    fitted.fit(model, datamodule=Toy())
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    again = MLP.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(again(batch_of(9)), model(batch_of(9)))
    assert again.hparams == model.hparams
    assert again.learning_rate == 0.2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hidden": [4, 0]}, "hidden="),
        ({"num_features": 0}, "num_features=0"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"activation": "gelu"}, "did you mean 'relu'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"optimizer": "lbfgs"}, "adam_bc, sgd, adamw"),
        ({"schedule": "step"}, "linear, cosine, constant"),
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
