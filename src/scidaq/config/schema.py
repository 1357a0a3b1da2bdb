"""The JSON Schema (draft 2020-12) of a configuration file, for editors that check and complete TOML.

It says of one file what can be said without the others: types, limits, names, meanings. Whether all of it together is
right, `scidaq check` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from scidaq.block import INSTRUMENT_ID
from scidaq.config.effective import plain
from scidaq.config.loading import ALIASES, SECTIONS
from scidaq.config.model import InstrumentOptions
from scidaq.config.words import field_docs, secret_fields
from scidaq.errors import ConfigError
from scidaq.instruments import find_drivers

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(drivers: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The schema, with the options of the drivers that are installed."""
    found = find_drivers() if drivers is None else drivers
    generator = _Generator(ref_template="#/$defs/{model}")
    kinds: list[tuple[str, type]] = [*SECTIONS.items(), ("instrument", InstrumentOptions)]
    for name in found:
        try:
            factory: Any = found[name]
        except ConfigError:  # it cannot be imported, which `scidaq check` says when it is used
            continue
        kinds.append((f"driver {name}", factory.Options))
    adapters = [(name, "validation", TypeAdapter(kind).core_schema) for name, kind in kinds]
    made, defs = generator.generate_definitions(adapters)  # type: ignore[arg-type]
    definitions: dict[str, Any] = {str(name): schema for name, schema in defs.items()}
    schemas = {name: _resolved(schema, definitions) for (name, _), schema in made.items()}
    general = schemas["instrument"]
    instruments = [
        _instrument(name.removeprefix("driver "), general, schema)
        for name, schema in schemas.items()
        if name.startswith("driver ")
    ]
    properties: dict[str, Any] = {name: schemas[name] for name in SECTIONS}
    for alias, key in ALIASES.items():
        section = properties.setdefault(str(alias[0]), {"type": "object", "properties": {}})
        target = properties[str(key[0])]["properties"][key[1]]
        also = {k: v for k, v in target.items() if k != "default"}
        section["properties"][alias[1]] = also | {"description": f"Another name of {'.'.join(map(str, key))}."}
    properties["instruments"] = {
        "type": "object",
        "description": "One table for each instrument, by its id.",
        "propertyNames": {"pattern": f"^{INSTRUMENT_ID.pattern}$"},
        "additionalProperties": {"oneOf": instruments},
    }
    return {
        "$schema": DIALECT,
        "title": "Configuration of scidaq",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }


def _resolved(schema: JsonSchemaValue, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that is no reference itself: the tables of a file are spelled out."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return {**definitions[name]} if name in definitions else dict(schema)


def _instrument(driver: str, general: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What every instrument has and the options of its driver, in one table."""
    properties = {**general.get("properties", {}), **own.get("properties", {})}
    properties["driver"] = {**general["properties"]["driver"], "const": driver}
    return {
        "title": f"Instrument with driver {driver}",
        "description": own.get("description", ""),
        "type": "object",
        "properties": properties,
        "required": sorted({*general.get("required", ()), *own.get("required", ())}),
        "additionalProperties": own.get("additionalProperties", True),
    }


class _Generator(GenerateJsonSchema):
    """pydantic's, with the lines under the fields as descriptions, and `<key>_file` beside each secret."""

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        out = super().dataclass_schema(schema)
        kind: type = schema["cls"]
        properties = out.get("properties", {})
        try:
            docs = field_docs(kind)
        except (OSError, TypeError):  # a third party's, without its source
            docs = {}
        for one in fields(kind):
            if one.name in properties and one.name in docs:
                properties[one.name]["description"] = " ".join(docs[one.name].split())
        for name in secret_fields(kind):
            if f"{name}_file" not in properties:
                about = f"File with what {name} is, instead of it."
                properties[f"{name}_file"] = {"type": "string", "description": about}
            if name in out.get("required", ()):
                out["required"].remove(name)  # its file will do
        if doc := " ".join((kind.__doc__ or "").partition("\n\n")[0].split()):
            out["description"] = doc
        return out

    def encode_default(self, dft: Any) -> Any:
        return plain(dft)
