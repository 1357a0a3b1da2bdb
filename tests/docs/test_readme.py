"""The README: its commands run in their order, and print what it says they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.commands import ROOT, Newcomer, blocks, shape

README = ROOT / "README.md"


@pytest.mark.slow
def test_a_newcomer_can_type_all_of_it(tmp_path: Path) -> None:
    newcomer, said = Newcomer(tmp_path), ""
    for code in blocks(README):
        if code.language == "text":
            missing = [line for line in shape(code.text) if line not in set(shape(said))]
            assert not missing, f"the README shows lines that nothing printed:\n{missing}\nbut:\n{said}"
        else:
            said = newcomer.do(code)
            for word in ("Traceback", "WRONG", "Warning"):
                assert word not in said, f"{code}\n{said}"


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {code.language for code in blocks(README)} == {"sh", "python", "toml", "text"}


def test_the_first_screen_has_a_picture_a_paragraph_and_two_commands() -> None:
    first = README.read_text(encoding="utf-8").splitlines()[:35]
    assert any(line.startswith("![") for line in first)
    assert blocks(README)[0].text.count("make ") == 2
    assert any(line.startswith("make test") for line in first)
