"""List filters: plain query parameters, ``search``, ``sort`` and CVAT's JSON-logic ``filter``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .replies import Call, invalid

Record = Mapping[str, Any]


def apply(call: Call, records: Sequence[Record], plain: Sequence[str], searched: Sequence[str]) -> list[Record]:
    """The records that a list request asks for, in the order that it asks for.

    Args:
        call: the request
        records: flat records, in the resource's own order
        plain: fields that may be query parameters, compared as text
        searched: fields that ``search`` looks into
    """
    chosen = list(records)
    for name in plain:
        wanted = call.query.get(name)
        if wanted:
            chosen = [record for record in chosen if _text(record.get(name)) == wanted.lower()]
    search = call.query.get("search", "").lower()
    if search:
        chosen = [r for r in chosen if any(search in _text(r.get(name)) for name in searched)]
    logic = call.query.get("filter")
    if logic:
        try:
            rule = json.loads(logic)
        except ValueError:
            raise invalid({"filter": ["JSON filter is not valid"]}) from None
        chosen = [record for record in chosen if evaluate(rule, record)]
    return _sorted(chosen, call.query.get("sort", ""))


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower()


def _sorted(records: list[Record], order: str) -> list[Record]:
    for name in reversed([name.strip() for name in order.split(",") if name.strip()]):
        field = name.lstrip("-")
        records = sorted(records, key=lambda record: _rank(record.get(field)), reverse=name.startswith("-"))
    return records


def _rank(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b or (_text(a) == _text(b) and a is not None and b is not None),
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a is not None and b is not None and a < b,
    "<=": lambda a, b: a is not None and b is not None and a <= b,
    ">": lambda a, b: a is not None and b is not None and a > b,
    ">=": lambda a, b: a is not None and b is not None and a >= b,
    "in": lambda a, b: _text(a) in _text(b) if isinstance(b, str) else a in (b or ()),
}


def evaluate(rule: Any, record: Record) -> bool:
    """JSON logic as far as CVAT's filters use it: and, or, !, comparisons, in, var."""
    if not isinstance(rule, dict) or len(rule) != 1:
        raise invalid({"filter": ["JSON filter is not valid"]})
    operator, operands = next(iter(rule.items()))
    if not isinstance(operands, list):
        operands = [operands]
    if operator == "and":
        return all(evaluate(operand, record) for operand in operands)
    if operator == "or":
        return any(evaluate(operand, record) for operand in operands)
    if operator == "!":
        return not evaluate(operands[0], record)
    if operator == "<=" and len(operands) == 3:
        low, value, high = (_value(operand, record) for operand in operands)
        return value is not None and low <= value <= high
    if operator not in _COMPARE or len(operands) != 2:
        raise invalid({"filter": [f"{operator} operation is not supported"]})
    return _COMPARE[operator](_value(operands[0], record), _value(operands[1], record))


def _value(operand: Any, record: Record) -> Any:
    return record.get(operand["var"]) if isinstance(operand, dict) and set(operand) == {"var"} else operand


__all__ = ["apply", "evaluate"]
