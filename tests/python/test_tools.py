"""The tools that are there to copy from, called as plain functions."""

from pathlib import Path

import pytest

from tools.example_tool import example_tool
from tools.sleep_tool import sleep_tool
from tools.word_count import word_count


def test_example_tool_is_that_of_the_contract() -> None:
    assert example_tool("you", param2=2) == {
        "items": [{"id": 0, "status": "done"}, {"id": 1, "status": "done"}],
        "count": 2,
        "success": True,
    }
    with pytest.raises(ValueError, match="param2"):
        example_tool("you", param2=-1)


def test_sleep_tool_takes_its_time() -> None:
    assert sleep_tool(0.05, 0.01)["slept_seconds"] >= 0.05
    with pytest.raises(ValueError, match="step_seconds"):
        sleep_tool(1, 0)


def test_word_count_yields_the_most_frequent_first(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The dog, the cat -- and THE end. (cat)\n")
    assert list(word_count(str(text), top=2)) == [{"word": "the", "count": 3}, {"word": "cat", "count": 2}]
