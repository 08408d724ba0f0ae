"""What would break: a checkpoint that is served with random numbers in place of weights that it
lacks, or that runs code of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from mcts_core.attention import CPU
from mcts_core.engine.resident import Resident
from mcts_core.models.gate import ModelRefused
from mcts_core.models.load import CheckpointError, load_resident
from tests.mcts_core.models_zoo import VOCABULARY, make


def load(folder: Path, *, language_head: bool = True) -> Resident:
    return load_resident(
        folder,
        "tiny",
        language_head=language_head,
        heads={},
        blocks=40,
        block_size=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
        attention=CPU,
    )


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_checkpoint_becomes_a_resident(tmp_path: Path) -> None:
    make("gemma3").save_pretrained(tmp_path)
    assert load(tmp_path).decoder.vocabulary == VOCABULARY


def test_the_log_says_how_a_model_runs(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    with capture_logs() as logs:
        load(tmp_path)
    (entry,) = logs
    assert entry["event"] == "model loaded"
    told = [entry[field] for field in ("attention", "decoder", "cuda_graphs")]
    assert told == ["cpu", "modules", "none"]


def test_the_trunk_of_a_classifier_is_loaded_without_its_head(tmp_path: Path) -> None:
    model = make("qwen2-token-classification")
    model.save_pretrained(tmp_path)
    trunk = sum(parameter.numel() for parameter in model.base_model.parameters())
    assert load(tmp_path, language_head=False).decoder.parameters == trunk


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    edit(tmp_path, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the weights .*layers\.2\."):
        load(tmp_path)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    make("qwen2").save_pretrained(tmp_path)
    edit(tmp_path, vocab_size=VOCABULARY + 1)
    with pytest.raises(CheckpointError, match=r"another shape: .*embed_tokens"):
        load(tmp_path)


def test_a_configuration_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    make("qwen2").save_pretrained(tmp_path)
    edit(tmp_path, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"config\.json of tiny is not valid"):
        load(tmp_path)


def test_a_classifier_is_no_policy(tmp_path: Path) -> None:
    make("qwen2-token-classification").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"lm_head"):
        load(tmp_path)


def test_a_broken_file_is_named_with_its_model(tmp_path: Path) -> None:
    make("qwen2").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"weights of tiny in .*not whole safetensors"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = make("qwen2")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load(tmp_path)


def test_code_of_the_checkpoints_own_is_never_run(tmp_path: Path) -> None:
    make("qwen2").save_pretrained(tmp_path)
    edit(
        tmp_path,
        model_type="homemade",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nConfig = Model = object\n")
    with pytest.raises(ModelRefused, match=r"no model type 'homemade'.*vLLM or SGLang"):
        load(tmp_path)
    assert not ran.exists()
