"""What would break: growth that changes what the model says, or layers that cannot learn."""

import pytest
import torch

from demo.deepen import deepen
from demo.train_policy import Size, build_model

SIZE = Size(hidden=32, layers=3, heads=2, kv_heads=1, inner=64)
IDS = torch.arange(3, 43).view(2, 20)


def test_a_deeper_model_says_what_the_shallow_one_said() -> None:
    model = build_model(SIZE, 0)
    deeper = deepen(model, (0, 2))
    assert deeper.config.num_hidden_layers == 5
    assert torch.equal(deeper(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert deeper.lm_head.weight is deeper.model.embed_tokens.weight, "still tied"
    with torch.no_grad():
        deeper.model.embed_tokens.weight.zero_()
    assert model.model.embed_tokens.weight.any(), "and a model of its own"


def test_the_new_layers_learn() -> None:
    deeper = deepen(build_model(SIZE, 0), (1,))
    deeper(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    new = deeper.model.layers[2]
    for matrix in (new.self_attn.o_proj.weight, new.mlp.down_proj.weight):
        assert not matrix.any()
        assert matrix.grad is not None
        assert matrix.grad.any()


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="layers are 0 to 2"):
        deepen(build_model(SIZE, 0), (3,))
