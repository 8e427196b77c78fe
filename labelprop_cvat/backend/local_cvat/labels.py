"""Labels and their attributes: reading definitions, keeping them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from .replies import RefusalError, invalid
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
SKELETON = "skeleton"
MAX_NAME = 64
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
    faults = [_label_fault(definition) for definition in definitions]
    if any(faults):
        raise invalid({"labels": faults})
    return definitions


def _label_fault(definition: Any, sublabel: bool = False) -> dict[str, Any]:
    """What is wrong with a definition, by field; empty when nothing is."""
    if not isinstance(definition, dict):
        kind = type(definition).__name__
        return {"non_field_errors": [f"Invalid data. Expected a dictionary, but got {kind}."]}
    if definition.get("deleted") and definition.get("id") is None:
        return {"non_field_errors": ["Deleted label must have an ID"]}
    fault: dict[str, Any] = {}
    if not definition.get("name") and definition.get("id") is None:
        fault["name"] = ["This field is required."]
    fault |= _name_fault(definition)
    kind = definition.get("type", "any")
    if kind not in LABEL_TYPES:
        fault["type"] = [f'"{kind}" is not a valid choice.']
    attributes = [_attribute_fault(attribute) for attribute in definition.get("attributes") or []]
    if any(attributes):
        fault["attributes"] = attributes
    children = [] if sublabel else [_label_fault(child, sublabel=True) for child in definition.get("sublabels") or []]
    if any(children):
        fault["sublabels"] = children
    return fault


def _name_fault(definition: Mapping[str, Any]) -> dict[str, Any]:
    name = definition.get("name", "")
    if not isinstance(name, str):
        return {"name": ["Not a valid string."]}
    if len(name) > MAX_NAME:
        return {"name": [f"Ensure this field has no more than {MAX_NAME} characters."]}
    return {}


def _attribute_fault(attribute: Any) -> dict[str, Any]:
    if not isinstance(attribute, dict):
        kind = type(attribute).__name__
        return {"non_field_errors": [f"Invalid data. Expected a dictionary, but got {kind}."]}
    needed = () if attribute.get("id") is not None else ("name", "mutable", "input_type", "values")
    fault: dict[str, Any] = {name: ["This field is required."] for name in needed if name not in attribute}
    fault |= _name_fault(attribute)
    if "input_type" in attribute and attribute["input_type"] not in INPUT_TYPES:
        fault["input_type"] = [f'"{attribute["input_type"]}" is not a valid choice.']
    if "values" in attribute and not isinstance(attribute["values"], list):
        fault["values"] = [f'Expected a list of items but got type "{type(attribute["values"]).__name__}".']
    return fault


def _check_unique(attributes: Iterable[Mapping[str, Any]]) -> None:
    seen = set()
    for name in (attribute.get("name") for attribute in attributes):
        if name is not None and name in seen:
            raise invalid([f"Duplicate attribute with name '{name}' exists"])
        seen.add(name)


def create_labels(
    tx: Transaction,
    definitions: Iterable[dict[str, Any]],
    *,
    task_id: int | None = None,
    project_id: int | None = None,
    parent_id: int | None = None,
) -> None:
    for definition in definitions:
        attributes = definition.get("attributes") or []
        _check_unique(attributes)
        owner = {"task_id": task_id, "project_id": project_id}
        identity = tx.insert(
            "label",
            **owner,
            parent_id=parent_id,
            name=definition["name"],
            color=definition.get("color") or label_color(definition["name"]),
            type=definition.get("type", "any"),
        )
        _check_name(tx, identity)
        create_attributes(tx, identity, attributes)
        create_labels(tx, definition.get("sublabels") or [], **owner, parent_id=identity)
        if definition.get("type") == SKELETON:
            tx.update("label", identity, svg=_linked(tx, identity, str(definition.get("svg") or "")))


def _linked(tx: Transaction, label_id: int, svg: str) -> str:
    """A skeleton's drawing, its nodes tied to the sublabels' ids instead of their names."""
    for child in tx.all("SELECT id, name FROM label WHERE parent_id = ?", label_id):
        svg = svg.replace(f'data-label-name="{child["name"]}"', f'data-label-id="{child["id"]}"')
    return svg


def _check_name(tx: Transaction, label_id: int) -> None:
    found = tx.one(
        "SELECT 1 FROM label a JOIN label b ON a.name = b.name AND a.id != b.id AND a.task_id IS b.task_id "
        "AND a.project_id IS b.project_id AND a.parent_id IS b.parent_id WHERE a.id = ?",
        label_id,
    )
    if found is not None:
        raise invalid(["All label names must be unique"])


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
            raise RefusalError(404, {"detail": f"Not found label with id #{identity} to change"})
        if definition.get("deleted"):
            tx.run("DELETE FROM label WHERE id = ?", identity)
        else:
            change_label(tx, identity, definition)


def change_label(tx: Transaction, label_id: int, definition: dict[str, Any]) -> None:
    """Change a label's name, colour, type and attributes.

    Nothing becomes a skeleton or ceases to be one, and sublabels stay as they are. An attribute that the label has,
    by id or else by name, is changed; another is added; none is ever removed.
    """
    attributes = definition.get("attributes") or []
    _check_unique(attributes)
    changes = {name: definition[name] for name in ("name", "color", "type") if definition.get(name)}
    if SKELETON in (changes.get("type"), tx.value("SELECT type FROM label WHERE id = ?", label_id)):
        changes.pop("type", None)
    tx.update("label", label_id, **changes)
    _check_name(tx, label_id)
    for attribute in attributes:
        _change_attribute(tx, label_id, attribute)


def _change_attribute(tx: Transaction, label_id: int, attribute: dict[str, Any]) -> None:
    identity = attribute.get("id")
    if identity is None:
        found = tx.one("SELECT id FROM attribute WHERE name = ? AND label_id = ?", attribute["name"], label_id)
        if found is None:
            create_attributes(tx, label_id, [attribute])
            return
        identity = found["id"]
    elif tx.one("SELECT 1 FROM attribute WHERE id = ? AND label_id = ?", identity, label_id) is None:
        raise RefusalError(404, {"detail": f"Attribute with id #{identity} does not exist"})
    plain = ("name", "default_value", "input_type")
    fields: dict[str, Any] = {name: attribute[name] for name in plain if name in attribute}
    if "mutable" in attribute:
        fields["mutable"] = bool(attribute["mutable"])
    if "values" in attribute:
        fields["values"] = dumps([str(value) for value in attribute["values"] or [""]])
    tx.update("attribute", identity, **fields)


__all__ = ["change_label", "change_labels", "check_labels", "create_labels", "label_color"]
