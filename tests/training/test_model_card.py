"""The Hub card says what happened, and the Hub's own parser reads its metadata."""

import pytest
from huggingface_hub import ModelCard

from limssr.training.data import load
from limssr.training.evaluation import evaluate_subsets
from limssr.training.model_card import write_model_card

FACTS = {
    "train_samples": 30,
    "validation_samples": 5,
    "missingness": "static, rates 0.3",
    "selection": "spearman on the validation split",
    "seed": 0,
    "backbone": "small, random at first",
    "steps": 10,
    "batch_size": 8,
    "learning_rate": 1e-3,
}


@pytest.fixture
def card(tmp_path, tiny_config, tiny_tokenizer):
    from limssr import LimssrForScoreRegression, LimssrProcessor

    data = load("synthetic", samples_train=30, samples_test=20)
    config = type(tiny_config)(
        text_config=tiny_config.text_config, modalities=data.modalities, score_ranges=data.score_ranges
    )
    model = LimssrForScoreRegression(config).eval()
    processor = LimssrProcessor.from_config(config, tiny_tokenizer)
    result = evaluate_subsets(model, processor, data.splits["test"], train_rows=data.splits["train"], progress=False)
    write_model_card(tmp_path, "user/limssr-synthetic", "synthetic", data, result, config, FACTS)
    return ModelCard.load(tmp_path / "README.md"), result


def test_the_metadata_is_valid_and_holds_every_mask(card):
    card, result = card
    assert card.data.license == "apache-2.0"
    values = {entry.metric_name: entry.metric_value for entry in card.data.eval_results}
    for mask in result.masks:
        assert values[f"mean squared error, score from {mask.name}"] == mask.scores["score"].model["mse"]


def test_the_text_shows_table_facts_and_a_snippet_that_parses(card):
    card, result = card
    text = card.content
    assert all(mask.name in text for mask in result.masks)
    assert all(str(value) in text for value in FACTS.values())
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "snippet", "exec")
    assert 'from_pretrained("user/limssr-synthetic", trust_remote_code=True)' in snippet
    assert "{{" not in text
