import pytest

from harness.augment.config import AdaConfig, BcrConfig, FixedAugmentConfig, NoAugmentConfig
from harness.config import PhaseConfig
from harness.errors import InputError
from harness.schema import parse

ADA = {"name": "ada", "rule": "text"}


def phase(augment: dict) -> PhaseConfig:
    optimizer = {"learning_rate": 1e-4}
    values = {
        "name": "gan",
        "iterations": 1,
        "batch_size": 2,
        "adversarial": {"form": "vanilla", "weight": 1.0},
        "generator_optimizer": optimizer,
        "discriminator_optimizer": optimizer,
        "augment": augment,
    }
    return parse(PhaseConfig, values, "phase")


def test_each_name_gives_its_own_section():
    assert isinstance(phase({"name": "none"}).augment, NoAugmentConfig)
    assert isinstance(phase({"name": "fixed", "p": 0.4}).augment, FixedAugmentConfig)
    assert isinstance(phase(ADA).augment, AdaConfig)
    assert isinstance(phase({"name": "bcr"}).augment, BcrConfig)


def test_rules_have_the_constants_of_the_text_and_of_the_paper():
    text, paper = parse(AdaConfig, ADA, "t"), parse(AdaConfig, {"name": "ada", "rule": "paper"}, "t")
    assert (text.every, text.cap, text.step, text.target) == (8, 0.85, 1e-3, 0.6)
    assert (paper.every, paper.cap, paper.adjust_images, paper.target) == (4, 1.0, 500_000, 0.6)


def test_resolved_configuration_reads_back_the_same():
    for rule in ("text", "paper"):
        config = parse(AdaConfig, {"name": "ada", "rule": rule}, "t")
        assert parse(AdaConfig, config.model_dump(mode="json"), "t") == config


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({**ADA, "adjust_images": 100}, "adjust_images belongs to rule paper"),
        ({"name": "ada", "rule": "paper", "step": 1e-3}, "step belongs to rule text"),
        ({**ADA, "start_p": 0.9}, "above cap"),
        ({**ADA, "operations": ["x_flip", "x_flip"]}, "none twice"),
        ({**ADA, "operations": []}, "at least one"),
        ({"name": "bcr", "x_flip": False, "shift_px": 0}, "no transform left"),
        ({"name": "fixed"}, "missing"),
        ({**ADA, "stepp": 1}, "step"),
    ],
)
def test_wrong_section_is_answered_in_one_sentence(wrong, words):
    with pytest.raises(InputError, match=words) as caught:
        phase(wrong)
    assert "\n" not in str(caught.value)
