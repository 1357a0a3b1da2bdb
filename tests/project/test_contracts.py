"""The project's own import contracts: kept by a good house, broken by each way round the door."""

from __future__ import annotations

import pytest
from grimp import ImportGraph
from importlinter import Contract

from tools.import_contracts import Doors, Fence

SESSION = {"root_packages": ["lab"], "include_external_packages": "True"}
DOORS = Doors("doors", SESSION, {"container": "lab"})


def fence() -> Contract:
    """A contract of which one half does not exist yet; it is used up by a check."""
    only = {"protected_modules": ["sql", "gone"], "allowed_importers": ["lab.store", "lab.later"]}
    return Fence("fence", SESSION, only)


def graph(*imports: tuple[str, str]) -> ImportGraph:
    house = ImportGraph()
    for module in ("lab", "lab.clock", "lab.store", "lab.store.files", "lab.web", "lab.web.pages"):
        house.add_module(module)
    house.add_module("sql", is_squashed=True)
    for importer, imported in imports:
        house.add_import(importer=importer, imported=imported, line_number=7, line_contents="import it")
    return house


@pytest.mark.parametrize(
    ("importer", "imported", "kept"),
    [
        ("lab.web", "lab.store", True),
        ("lab.web.pages", "lab.clock", True),
        ("lab.store", "lab.store.files", True),
        ("lab.store.files", "lab.store", True),
        ("lab.web", "lab.store.files", False),
        ("lab.web.pages", "lab.store.files", False),
        ("lab.clock", "lab.web.pages", False),
        ("lab", "lab.store.files", False),
    ],
)
def test_a_room_is_entered_through_its_door(importer: str, imported: str, kept: bool) -> None:
    assert DOORS.check(graph((importer, imported)), verbose=False).kept is kept


def test_a_trespass_is_shown_with_the_way_in(capsys: pytest.CaptureFixture[str]) -> None:
    check = DOORS.check(graph(("lab.web", "lab.store.files")), verbose=False)
    DOORS.render_broken_contract(check)
    assert "lab.web -> lab.store.files (l.7): import it from lab.store" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("importer", "kept"), [("lab.store", True), ("lab.store.files", True), ("lab.web.pages", False)]
)
def test_a_fence_keeps_others_out(importer: str, kept: bool) -> None:
    assert fence().check(graph((importer, "sql")), verbose=False).kept is kept
