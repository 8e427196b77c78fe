"""Labels and their attributes: reading definitions, keeping them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from .replies import invalid
from .storage import Transaction, dumps

LABEL_TYPES = (
    "any",
    "bbox",
    "cuboid",
    "ellipse",
    "mask",
    "points",
    "polygon",
    "polyline",
    "rectangle",
    "skeleton",
    "tag",
)
INPUT_TYPES = ("checkbox", "radio", "number", "text", "select")


def label_color(name: str) -> str:
    """A colour that depends on nothing but the name."""
    return "#" + "".join(f"{32 + byte % 192:02x}" for byte in hashlib.sha256(name.encode()).digest()[:3])


def check_labels(definitions: Any) -> list[dict[str, Any]]:
    """Label definitions of a request.

    Raises:
        RefusalError: 400 naming the fault
    """
    if not isinstance(definitions, list):
        raise invalid({"labels": [f'Expected a list of items but got type "{type(definitions).__name__}".']})
    for definition in definitions:
        _check_label(definition)
    names = [definition.get("name") for definition in definitions if not definition.get("deleted")]
    if len(set(names)) != len(names):
        raise invalid({"labels": ["All label names must be unique"]})
    return definitions


def _check_label(definition: Any) -> None:
    if not isinstance(definition, dict) or not (definition.get("name") or definition.get("id")):
        raise invalid({"labels": [{"name": ["This field is required."]}]})
    kind = definition.get("type", "any")
    if kind not in LABEL_TYPES:
        raise invalid({"labels": [{"type": [f'"{kind}" is not a valid choice.']}]})
    for attribute in definition.get("attributes") or []:
        _check_attribute(attribute)
    for child in definition.get("sublabels") or []:
        _check_label(child)


def _check_attribute(attribute: Any) -> None:
    missing = [name for name in ("name", "mutable", "input_type", "values") if name not in attribute]
    if missing:
        fault = {name: ["This field is required."] for name in missing}
        raise invalid({"labels": [{"attributes": [fault]}]})
    if attribute["input_type"] not in INPUT_TYPES:
        fault = {"input_type": [f'"{attribute["input_type"]}" is not a valid choice.']}
        raise invalid({"labels": [{"attributes": [fault]}]})


def create_labels(
    tx: Transaction,
    definitions: Iterable[dict[str, Any]],
    *,
    task_id: int | None = None,
    project_id: int | None = None,
    parent_id: int | None = None,
) -> None:
    for definition in definitions:
        identity = tx.insert(
            "label",
            task_id=task_id,
            project_id=project_id,
            parent_id=parent_id,
            name=definition["name"],
            color=definition.get("color") or label_color(definition["name"]),
            type=definition.get("type", "any"),
            svg=definition.get("svg") or "",
        )
        create_attributes(tx, identity, definition.get("attributes") or [])
        create_labels(tx, definition.get("sublabels") or [], task_id=task_id, project_id=project_id, parent_id=identity)


def create_attributes(tx: Transaction, label_id: int, attributes: Iterable[dict[str, Any]]) -> None:
    for attribute in attributes:
        tx.insert(
            "attribute",
            label_id=label_id,
            name=attribute["name"],
            mutable=bool(attribute["mutable"]),
            input_type=attribute["input_type"],
            default_value=str(attribute.get("default_value") or ""),
            values=dumps([str(value) for value in attribute["values"] or [""]]),
        )


def change_labels(
    tx: Transaction,
    definitions: Iterable[dict[str, Any]],
    *,
    task_id: int | None = None,
    project_id: int | None = None,
) -> None:
    """PATCH of a task's or project's labels: without an id made, with one changed, with ``deleted`` removed."""
    column, owner = ("task_id", task_id) if project_id is None else ("project_id", project_id)
    for definition in definitions:
        identity = definition.get("id")
        if identity is None:
            create_labels(tx, [definition], task_id=task_id, project_id=project_id)
            continue
        row = tx.one(f"SELECT id FROM label WHERE id = ? AND {column} = ?", identity, owner)
        if row is None:
            raise invalid({"labels": [f"Not found label with id #{identity} to change"]})
        if definition.get("deleted"):
            tx.run("DELETE FROM label WHERE id = ?", identity)
        else:
            change_label(tx, identity, definition)


def change_label(tx: Transaction, label_id: int, definition: dict[str, Any]) -> None:
    """Change a label's name, colour, type and attributes; attributes without an id are added."""
    changes = {name: definition[name] for name in ("name", "color", "type") if definition.get(name)}
    tx.update("label", label_id, **changes)
    for attribute in definition.get("attributes") or []:
        if attribute.get("id") is None:
            _check_attribute(attribute)
            create_attributes(tx, label_id, [attribute])
            continue
        fields = {name: attribute[name] for name in ("name", "default_value") if name in attribute}
        if "values" in attribute:
            fields["values"] = dumps(attribute["values"] or [""])
        if tx.one("SELECT 1 FROM attribute WHERE id = ? AND label_id = ?", attribute["id"], label_id) is None:
            raise invalid({"attributes": [f"Attribute with id #{attribute['id']} does not exist"]})
        tx.update("attribute", attribute["id"], **fields)


__all__ = ["change_label", "change_labels", "check_labels", "create_labels", "label_color"]
