"""Which augmentation the discriminator sees. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.schema import Section


class NoAugmentConfig(Section):
    name: Literal["none"] = "none"


AugmentConfig = Annotated[NoAugmentConfig, Field()]
