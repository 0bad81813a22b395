import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dplit.errors import ConfigurationError
from dplit.grads import Tape
from dplit.models.cnn import CNN


class Toy(L.LightningDataModule):
    """Two classes: which half of the image is bright."""

    image_shape, num_classes = (1, 8, 8), 2

    def __init__(self, examples=400):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.y = torch.randint(2, (examples,), generator=draw)
        self.x = torch.randn(examples, 1, 8, 8, generator=draw) / 4
        self.x[:, :, :4] += (2.0 * self.y - 1)[:, None, None, None]

    def collate(self, indices):
        return {"x": self.x[indices], "y": self.y[indices]}

    def train_dataloader(self):
        return DataLoader(range(len(self.y)), batch_size=32, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(range(50), batch_size=50, collate_fn=self.collate)


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, **{"enable_checkpointing": False, "max_epochs": 2, **quiet, **options})


def law_the_published_size(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 97_114
    assert model({"x": torch.randn(3, 1, 28, 28)}).shape == (3, 10)


def test_the_published_size():
    law_the_published_size(CNN(image_shape=(1, 28, 28), num_classes=10))


@pytest.mark.parametrize("other", [{"kernel": 5}, {"pooling": "max"}, {"channels": (16, 32)}, {"norm_groups": 4}])
def test_mutant_another_network(other):
    with pytest.raises(AssertionError):
        law_the_published_size(CNN(image_shape=(1, 28, 28), num_classes=10, **other))


def test_layers_stand_in_order():
    model = CNN([4], activation="relu", pooling="max", norm_groups=2, image_shape=(3, 8, 8), num_classes=2)
    kinds = [nn.Conv2d, nn.GroupNorm, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear]
    assert [type(layer) for layer in model.net] == kinds
    plain = CNN([4], image_shape=(3, 8, 8), num_classes=2)
    assert [type(layer) for layer in plain.net] == [nn.Conv2d, nn.Tanh, nn.Flatten, nn.Linear]


@pytest.mark.parametrize("pooling", ["none", "average", "max"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 23), (2, 10, 11)])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_the_head_fits_every_image(pooling, shape, kernel):
    model = CNN([4, 2], kernel, pooling=pooling, image_shape=shape, num_classes=3)
    assert model({"x": torch.randn(2, *shape)}).shape == (2, 3)
    assert model({"x": torch.zeros(0, *shape)}).shape == (0, 3)


@pytest.mark.parametrize("options", [{}, {"pooling": "max", "norm_groups": 2}, {"pooling": "average"}])
def test_every_part_has_exact_gradients_for_each_example(options):
    torch.manual_seed(0)
    model = CNN([4, 2], image_shape=(1, 12, 12), num_classes=3, **options).double()
    x, y = torch.randn(5, 1, 12, 12).double(), torch.tensor([0, 1, 2, 0, 1])
    with Tape(model, examples=5) as tape:
        losses = nn.functional.cross_entropy(model({"x": x}), y, reduction="none")
    found = sum(tape.backward(losses).sq_norms().values())
    for i in range(5):
        model.zero_grad()
        nn.functional.cross_entropy(model({"x": x[i : i + 1]}), y[i : i + 1]).backward()
        alone = sum(parameter.grad.square().sum() for parameter in model.parameters())
        torch.testing.assert_close(found[i], alone, rtol=1e-10, atol=0)


def test_sizes_come_from_the_data_module_and_it_learns(tmp_path):
    L.seed_everything(0)
    model, fitted = CNN([4], learning_rate=0.05), trainer(tmp_path)
    fitted.fit(model, datamodule=Toy())
    before = model.net
    assert (before[0].in_channels, before[-1].in_features, before[-1].out_features) == (1, 4 * 6 * 6, 2)
    model.configure_model()
    assert model.net is before
    assert fitted.callback_metrics["val/accuracy"] > 0.95
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    again = CNN.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    batch = Toy().collate(torch.arange(9))
    assert torch.equal(again(batch), model(batch))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"channels": []}, "channels="),
        ({"channels": [4, 0]}, "channels="),
        ({"kernel": 0}, "kernel=0"),
        ({"activation": "gelu"}, "did you mean 'relu'"),
        ({"pooling": "sum"}, "average, max, none"),
        ({"norm_groups": 3, "channels": [4]}, "norm_groups=3"),
        ({"norm_groups": 0}, "norm_groups=0"),
        ({"image_shape": (28, 28)}, "image_shape="),
        ({"num_classes": 1}, "num_classes=1"),
        ({"image_shape": (1, 4, 28), "num_classes": 2}, "leave nothing"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
    ],
)
def test_wrong_arguments_get_one_line(wrong, says):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        CNN(**wrong)
    assert "\n" not in str(refusal.value)


def test_unknown_sizes_are_refused():
    with pytest.raises(ConfigurationError, match=r"image_shape=\.\.\."):
        CNN().configure_model()
    with pytest.raises(ConfigurationError, match=r"num_classes=\.\.\."):
        CNN(image_shape=(1, 8, 8)).configure_model()
    with pytest.raises(ConfigurationError, match="no layers yet"):
        CNN()({"x": torch.zeros(1, 1, 8, 8)})
