"""What would break: a served model's description misread, or an error nobody can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcts_core.models.manifest import FILE, Manifest, ManifestError


def test_a_manifest_names_the_parts_and_the_preset(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        "policy: base\nrollout: fast\ncritics: {prm: judge}\n"
        "search: {method: mcts, critics: {prm: 2}, width: {root: [3, 9]}}\n"
    )
    manifest = Manifest.load(tmp_path)
    assert (manifest.policy, manifest.rollout, manifest.critics) == (
        "base",
        "fast",
        {"prm": "judge"},
    )
    assert manifest.search.width.root == (3, 9)


def test_a_plain_checkpoint_is_a_policy_that_samples(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert Manifest.load(tmp_path).search.method == "sample"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polcy: base", "polcy"),
        ("search: {methd: mcts}", "methd"),
        ("search: {budget: {tokens: -1}}", "tokens"),
        ("policy: [", "served.yaml"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ManifestError, match=message):
        Manifest.load(tmp_path)


def test_a_folder_that_holds_no_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="neither"):
        Manifest.load(tmp_path)
    with pytest.raises(ManifestError, match="not a folder"):
        Manifest.load(tmp_path / "nowhere")
