"""Puts the dashboard into the wheel and into the source distribution: hatchling calls this when it builds them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import dashboard


class DashboardHook(BuildHookInterface[Any]):
    """Builds it before the files are collected. An editable install takes what `make` puts into the checkout."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs on this machine beside hatchling: Node, where there is none and the dashboard is not
        there already, as it is in a source distribution."""
        return [] if dashboard.is_current() or dashboard.find_node() else [dashboard.WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and have it collected though Git ignores it."""
        if version == "editable":
            return
        dashboard.build()
        build_data["artifacts"].append("/src/scidaq/web/dashboard/")
