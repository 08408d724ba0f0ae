"""Sampling, and the positions that critics read."""

import pytest
import torch
from transformers import LlamaForCausalLM

from demo.corpus import Corpus
from demo.judge import judge_choices
from demo.sampler import sample
from demo.tokenizer import EOS_ID, build_tokenizer
from demo.traces import read, sample_traces, trace_of, trace_of_sample
from demo.train_policy import Size, build_model

TOKENIZER = build_tokenizer()
CORPUS = Corpus(0)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    made = build_model(Size(hidden=32, layers=2, heads=2, kv_heads=1, inner=32), 0)
    made.train(False)
    return made


def test_greedy_sampling_equals_generate(model: LlamaForCausalLM) -> None:
    prompts = TOKENIZER([CORPUS.puzzle().prompt for _ in range(6)])["input_ids"]
    made = sample(model, prompts, torch.Generator(), 0.0, max_tokens=8)
    for prompt, ours in zip(prompts, made, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
        assert ours == theirs[0, len(prompt) :].tolist()


def test_samples_stop_at_the_stop_token_and_repeat_with_the_seed(model: LlamaForCausalLM) -> None:
    prompts = TOKENIZER([CORPUS.puzzle().prompt] * 20)["input_ids"]
    stops = frozenset(range(1150))
    runs = [
        sample(model, prompts, torch.Generator().manual_seed(1), 1.0, stops, 12) for _ in range(2)
    ]
    assert runs[0] == runs[1]
    for row in runs[0]:
        assert len(row) <= 12
        assert all(token not in stops for token in row[:-1])


def test_a_walk_is_read_at_the_prompt_each_line_and_eos() -> None:
    for _ in range(50):
        walk = CORPUS.walk()
        trace = trace_of_sample(walk, TOKENIZER)
        reads = list(zip(trace.depth, trace.labels, trace.ends, strict=True))
        whole = [read for read in reads if read[0] >= -1]
        assert tuple(label for _, label, _ in whole) == walk.labels
        assert trace.won == walk.labels[-1]
        assert tuple(depth for depth, _, _ in whole) == (*range(len(walk.lines)), -1)
        assert trace.ids[trace.ends[-1]] == EOS_ID
        texts = [TOKENIZER.decode([trace.ids[end]]) for _, _, end in whole]
        assert texts == [".\n", *[")\n"] * (len(walk.lines) - 1), "</s>"]
        choices = [read for read in reads if read[0] < -1]
        assert list(trace.ends) == sorted(trace.ends)
        assert [depth for depth, _, _ in choices] == [-2 - n for n in range(len(walk.lines))]
        assert tuple(label for _, label, _ in choices) == judge_choices(walk.puzzle, walk.lines)
        assert all(TOKENIZER.decode([trace.ids[end]]) == " =" for _, _, end in choices)


def test_an_unfinished_completion_is_wrong() -> None:
    solution = CORPUS.solution()
    prompt = TOKENIZER(solution.puzzle.prompt)["input_ids"]
    made = TOKENIZER("".join(solution.lines))["input_ids"]
    assert trace_of(solution.puzzle, prompt, [*made, EOS_ID], TOKENIZER).won == 1
    assert trace_of(solution.puzzle, prompt, made, TOKENIZER).won == 0


def test_reads_are_the_hidden_states_at_the_ends(model: LlamaForCausalLM) -> None:
    traces = [trace_of_sample(CORPUS.walk(), TOKENIZER) for _ in range(9)]
    reads = read(model.model, traces, rows=4)
    assert len(reads.hidden) == sum(len(trace.ends) for trace in traces)
    for index, trace in enumerate(traces):
        alone = model.model(input_ids=torch.tensor([trace.ids])).last_hidden_state[0]
        ours = reads.hidden[reads.trace == index]
        assert torch.allclose(ours, alone[list(trace.ends)], atol=1e-5)
        assert reads.labels[reads.trace == index].tolist() == list(trace.labels)


def test_sampled_traces_are_labelled(model: LlamaForCausalLM) -> None:
    traces = sample_traces(model, TOKENIZER, [CORPUS.puzzle() for _ in range(4)], 0, 1.0)
    assert [trace.won for trace in traces] == [0] * 4
    assert all(len(trace.labels) == len(trace.ends) == len(trace.depth) for trace in traces)
