import pytest

from harness.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("disk\nfull"), "disk"),
        (ValueError("\n  odd value \nmore"), "odd value "),
        (MemoryError(), "MemoryError"),
        (RuntimeError("\n"), "RuntimeError"),
    ],
)
def test_what_an_error_says_is_one_line_even_where_it_says_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line
