"""What the options of all rooms have in common: which of them are secrets, and which may change while a station runs.

A room says so by the types of its options; what follows from it (where a secret may come from, that it is shown
nowhere, what a reload does) is the business of `config`.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

HIDDEN: Final = "(hidden)"
"""What is shown in the place of a secret."""


class Secret:
    """A text that is shown nowhere: it says what it is only to who calls `reveal`.

    An option of this type may also be given by a file, as `<key>_file`, or by a systemd credential. It is no `str` on
    purpose: whoever formats, logs or serialises it gets `HIDDEN`, or an error.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __str__(self) -> str:
        return HIDDEN

    def __repr__(self) -> str:
        return f"Secret{HIDDEN}"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # here, since the rooms do without pydantic

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "writeOnly": True}


class Live:
    """The type of the mark `LIVE`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "LIVE"


LIVE: Final = Live()
"""Marks an option that a reload changes without a restart, as in `level: Annotated[str, LIVE] = "info"`."""
