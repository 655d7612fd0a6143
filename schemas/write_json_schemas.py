"""Write ``schemas/json/*.v1.json`` from the dataclasses: ``python -m schemas.write_json_schemas``.

A test fails when the files and the dataclasses differ.
"""

from __future__ import annotations

import json
from pathlib import Path

from schemas import contract, messages

JSON_DIR = Path(__file__).parent / "json"


def documents() -> dict[str, str]:
    """File name to content, one per message."""
    return {f"{name}.v1.json": _document(name, cls) for name, cls in messages.MESSAGES.items()}


def _document(name: str, cls: type) -> str:
    schema = contract.json_schema(cls, schema_id=f"urn:linguabus:{name}:v1")
    schema["properties"] = {
        "type": {"const": name, "description": "The message's name."},
        "v": {"const": messages.SCHEMA_VERSION, "description": "The schema's version."},
        **schema["properties"],
    }
    schema["required"] = ["type", "v", *schema["required"]]
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for file_name, text in documents().items():
        (JSON_DIR / file_name).write_text(text, encoding="utf-8")
