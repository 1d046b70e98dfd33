"""A damaged .npy header is refused in one sentence, whatever NumPy's own reader raises for it."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from harness.data.reading import npy_layout
from harness.errors import DataError


def header() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (16, 16, 3)})
    return buffer.getvalue()


def test_a_sound_header_gives_offset_and_shape():
    assert npy_layout(header(), "x") == (len(header()), (16, 16, 3))


@pytest.mark.parametrize("place", range(len(header())))
@pytest.mark.parametrize("value", [0x00, 0x0A, 0x28, 0x5C, 0x7A, 0x7B, 0x7D, 0xFF])
def test_any_changed_byte_gives_a_layout_or_one_sentence(place, value):
    changed = bytearray(header())
    changed[place] = value
    try:
        offset, shape = npy_layout(bytes(changed), "shard.tar: sample 'a'")
    except DataError as error:
        assert str(error).startswith("shard.tar: sample 'a'") and "\n" not in str(error)
    else:
        assert offset <= len(changed) + 256 and len(shape) == 3


def test_of_a_damaged_header_python_does_not_warn():
    damaged = header().replace(b"|u1", b"|\\d")
    with warnings.catch_warnings(record=True) as warned, pytest.raises(DataError, match=r"is not a \.npy array"):
        warnings.simplefilter("always")
        npy_layout(damaged, "x")
    assert warned == []
