"""Import contracts that also hold for rooms which are yet to be built.

import-linter's own contracts name each module, and refuse names that do not exist. These two are
written once and cover every room from its first commit. The floors (who is above whom) are an
ordinary layers contract.
"""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.contracts.protected import ProtectedContract


class Doors(Contract):
    """Each room of `container` is entered through its `__init__`, by no module inside it."""

    type_name = "doors"

    container = fields.ModuleField()

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Collect each import that climbs through a window, as (room, importer, imported, line)."""
        trespasses = [
            (room, importer, imported, detail["line_number"])
            for room in sorted(graph.find_children(str(self.container)))
            for imported in sorted(graph.find_descendants(room))
            for importer in sorted(graph.find_modules_that_directly_import(imported))
            if importer != room and not importer.startswith(f"{room}.")
            for detail in graph.get_import_details(importer=importer, imported=imported)
        ]
        return ContractCheck(kept=not trespasses, metadata={"trespasses": trespasses})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the trespasses, and the way in."""
        for room, importer, imported, line in check.metadata["trespasses"]:
            output.print_error(f"- {importer} -> {imported} (l.{line}): import it from {room}")
        output.new_line()


class Fence(ProtectedContract):
    """`protected_modules` are imported only by `allowed_importers`, as far as either exists yet."""

    type_name = "fence"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Leave out modules that are not there, and check the rest as `protected` does."""
        self.protected_modules = _present(self.protected_modules, graph)
        self.allowed_importers = _present(self.allowed_importers, graph)
        return super().check(graph, verbose)


def _present(expressions: list[object], graph: ImportGraph) -> list[object]:
    return [expression for expression in expressions if str(expression) in graph.modules]
