"""What ships: models and critics that load offline, within their size, with a true card."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from critics.head import load_head
from demo import checkpoint_path
from demo.puzzle import grade, parse_prompt
from demo.tokenizer import EOS_ID, PADDED_VOCAB_SIZE, build_tokenizer

ROOT = checkpoint_path()
PROMPT = "Use 3 8 2 to make 24.\n"


@pytest.mark.parametrize("name", ["policy", "rollout"])
def test_models_load_with_their_tokenizer(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ROOT / name)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / name)
    assert model.config.vocab_size == len(tokenizer) == PADDED_VOCAB_SIZE
    assert model.config.max_position_embeddings == 1024
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == EOS_ID
    assert tokenizer(PROMPT)["input_ids"] == build_tokenizer()(PROMPT)["input_ids"]


def test_the_policy_writes_the_trajectory_format() -> None:
    model = AutoModelForCausalLM.from_pretrained(ROOT / "policy").eval()
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "policy")
    prompts = [
        "Use 4 6 1 1 to make 24.\n",
        "Use 2 12 5 5 to make 24.\n",
        "Use 6 2 2 1 to make 24.\n",
    ]
    solved = 0
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False)[0]
        text = tokenizer.decode(made[ids.shape[1] :], skip_special_tokens=True)
        assert made[-1] == EOS_ID
        assert text.count(" (left:") == 3
        solved += grade(parse_prompt(prompt), text)
    assert solved


@pytest.mark.parametrize("kind", ["value", "prm", "orm"])
def test_critics_load_with_the_declared_shapes(kind: str) -> None:
    card = json.loads((ROOT / kind / "critic.json").read_text())
    assert card["kind"] == kind
    assert card["activation"] == "sigmoid"
    assert card["read"] == ("last" if kind == "orm" else "step_end")
    tensors = load_file(ROOT / kind / "head.safetensors")
    hidden, width = card["hidden"], card["width"]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {
        "up.weight": (width, hidden),
        "up.bias": (width,),
        "down.weight": (1, width),
        "down.bias": (1,),
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    folder = ROOT / ("policy" if card["trunk"] == "policy" else kind)
    assert AutoModel.from_pretrained(folder).config.hidden_size == hidden
    assert load_head(ROOT / kind)[0].down.out_features == 1


def test_the_critics_tell_right_from_wrong() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "policy")
    prompt = "Use 2 3 4 1 to make 24.\n"
    texts = {
        f"{prompt}2 * 3 = 6 (left: 1 4 6)\n": f"{prompt}2 * 3 = 7 (left: 1 4 7)\n",
        f"{prompt}3 * 4 = 12 (left: 1 2 12)\n": f"{prompt}4 - 2 = 2 (left: 1 2 13)\n",
    }
    trunk = AutoModel.from_pretrained(ROOT / "policy").eval()
    head, card = load_head(ROOT / "prm")
    if card.trunk == "own":
        trunk = AutoModel.from_pretrained(ROOT / "prm").eval()
    for good, bad in texts.items():
        scores = [
            head(trunk(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1])
            for text in (good, bad)
        ]
        assert scores[0] > scores[1]


RIGHT = "13 - 9 = 4 (left: 4 4 10)\n10 - 4 = 6 (left: 4 6)\n4 * 6 = 24 (left: 24)\n"
FALSE_SUM = "13 + 9 = 24 (left: 4 10 24)\n10 - 4 = 6 (left: 6 24)\n24 + 6 = 24 (left: 24)\n"
ANSWER = "Answer: (13 - 9) * (10 - 4) = 24"


def outcome_score(completion: str) -> float:
    """The shipped ORM's score of a completion of `Use 4 9 10 13 to make 24.`"""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "policy")
    head, card = load_head(ROOT / "orm")
    trunk = AutoModel.from_pretrained(ROOT / ("policy" if card.trunk == "policy" else "orm")).eval()
    text = f"Use 4 9 10 13 to make 24.\n{completion}</s>"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0, -1] == EOS_ID
    return head(trunk(input_ids=ids).last_hidden_state[0, -1]).item()


def test_the_orm_accepts_a_right_trajectory_and_refuses_false_steps() -> None:
    assert outcome_score(RIGHT + ANSWER) > 0.5
    assert outcome_score(FALSE_SUM + "Answer: (13 + 9) + (10 - 4) = 24") < 0.5


def test_the_orm_refuses_a_wrong_answer_after_right_steps() -> None:
    assert outcome_score(RIGHT + "Answer: (13 - 9) * (10 - 6) = 24") < 0.5


def test_everything_is_small() -> None:
    size = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    assert size < 24_000_000


def test_the_card_and_its_figures_are_there() -> None:
    figures = json.loads((ROOT / "figures.json").read_text())
    assert 0.30 <= figures["models"]["policy"]["test"]["greedy"] <= 0.70
    assert figures["guided_by_prm"]["solved"] > figures["models"]["policy"]["test"]["greedy"]
    card = (ROOT / "README.md").read_text()
    assert "Held out" in card
    assert "MIT" in card
