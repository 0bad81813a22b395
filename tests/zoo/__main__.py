"""`python -m tests.zoo` writes docs/models.md."""

import torch

from tests.zoo.table import PAGE, page

torch.set_num_threads(1)
PAGE.parent.mkdir(exist_ok=True)
PAGE.write_text(page())
