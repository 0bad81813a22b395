"""Language models with random weights, and the laws that their losses and clipped sums obey, one text at a time."""

from __future__ import annotations

import torch

from dplit.grads import Tape
from dplit.models.causal_lm import CausalLM
from dplit.models.infilling import Infilling
from dplit.models.sequence_classifier import SequenceClassifier
from tests.models.tiny import CAUSAL, FAMILIES, MASKED, alone, batch, folder
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def classifier(family, **given):
    return SequenceClassifier(folder(family), 2, **given)


def infilling(family, **given):
    place = "mask" if family in MASKED else "end"
    return Infilling(folder(family), ["good", "bad"], place, **given)


def language(family, **given):
    return CausalLM(folder(family), **given)


MODELS = [
    *[(classifier, family) for family in FAMILIES],
    *[(infilling, family) for family in FAMILIES],
    *[(language, family) for family in CAUSAL],
]


IDS = [f"{build.__name__}-{family}" for build, family in MODELS]


def ready(build, family, dtype=torch.float64, **given):
    """Return a model with every weight moved off its initial value."""
    torch.manual_seed(0)
    model = build(family, **given)
    model.configure_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight) * weight.requires_grad
    return model.to(dtype).train()


def losses(model, given):
    return model.losses(given)[0] if isinstance(model, CausalLM) else model._losses(model(given), given)


def law_clipped_sums(model, given, dtype):
    n = len(given["y"])
    expected = loop_gradients(model, lambda i: losses(model, alone(given, i)), n)
    with Tape(model, n) as tape:
        value = losses(model, given)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])


def law_padding_changes_no_loss(model):
    right, left = losses(model, batch("right")), losses(model, batch("left"))
    by_itself = torch.cat([losses(model, alone(batch(), i)) for i in range(5)])
    torch.testing.assert_close(right, by_itself, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(left, by_itself, rtol=1e-9, atol=1e-9)


def token_mean(mean_loss):
    """Weigh each text by its share of the tokens of the batch."""

    def mutant(*given):
        each, tokens = mean_loss(*given)
        return each * tokens * len(tokens) / tokens.sum(), tokens

    return mutant
