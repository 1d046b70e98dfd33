"""The data section refuses what it cannot mean."""

from __future__ import annotations

import pytest

from harness.data.config import DataConfig
from harness.errors import InputError
from harness.schema import parse

GOOD = {"sources": [{"path": "a"}], "patch_px": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [{"path": "a", "weight": 1}, {"path": "b"}]}, "give all of them one, or none"),
        ({"sources": [{"path": "a", "fraction": 0}]}, r"sources\.0\.fraction"),
        ({"sources": [{"path": "a", "clases": ["x"]}]}, "did you mean 'classes'"),
        ({"degradation": {"kernels": {"lanczos": 1}}}, "lanczos"),
        ({"degradation": {"kernels": {"area": 0}}}, "at least one kernel with a weight above 0"),
        ({"contrast": [1.2, 0.8]}, r"give \[low, high\]"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample"),
        ({"sources": [{"path": "a", "classes": []}]}, r"'sources\.0\.classes': must have at least 1 item, has 0"),
        ({"cache_gb": 1e300}, "cache_gb"),
        ({"patch_px": "big"}, "patch_px"),
    ],
)
def test_what_makes_no_sense_is_refused_by_key(change, message):
    parse(DataConfig, GOOD, "recipe.yaml")
    with pytest.raises(InputError, match=message) as caught:
        parse(DataConfig, {**GOOD, **change}, "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml: ") and "\n" not in str(caught.value)
