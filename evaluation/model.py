"""What is evaluated: a model by name, and where it comes from. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from harness.errors import InputError

ModelKind = Literal["checkpoint", "method", "folder", "spandrel"]
METHODS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Model:
    """One column of a matrix.

    kind: `checkpoint` (a run or checkpoint folder of this project), `spandrel` (a third party's weights file), `method`
    (an interpolation, no path) or `folder` (finished SR images, told apart by the images' names).
    """

    name: str
    kind: ModelKind
    path: str | None = None
    axes: dict[str, str] = field(default_factory=dict)
    """The sweep's axes and this model's value on each, for tables."""
    own_class: str | None = None
    """The class that the model is specialised to: its row of the matrix is framed."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ModelKind):
            raise InputError(
                f"model '{self.name}': unknown kind '{self.kind}'; use one of {list(get_args(ModelKind))}."
            )
        if self.kind == "method" and self.name not in METHODS:
            raise InputError(f"model '{self.name}': no such method; use one of {list(METHODS)}.")
        if self.kind != "method" and not self.path:
            raise InputError(f"model '{self.name}': a {self.kind} needs a path; give one.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def baseline(method: str) -> Model:
    """An interpolation as a model: `nearest`, `bilinear` or `bicubic` (MATLAB's)."""
    return Model(name=method, kind="method")
