"""Label schemas of FiftyOne as labels of CVAT."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelprop_cvat.backend.schema import INDEX_ATTRIBUTE, Attribute, run_schema
from labelprop_cvat.errors import ConfigurationError

SCHEMA: dict[str, dict[str, Any]] = {
    "objects": {
        "type": "instances",
        "classes": ["person", {"classes": ["car", "bus"], "attributes": {"plate": {"type": "text"}}}],
        "attributes": {
            "pose": {"type": "select", "values": ["up", 2, 2.5, None], "default": 2, "mutable": False},
            "hidden": {"type": "occluded"},
            "instance": {"type": "text"},
        },
        "allow_additions": False,
    }
}


def test_every_class_carries_its_attributes_and_the_index() -> None:
    (schema,) = run_schema(SCHEMA)
    assert schema.shape_type == "mask"
    assert schema.occluded_attr == "hidden"
    labels = {label.name: [attribute.name for attribute in label.attributes] for label in schema.labels()}
    assert labels == {
        "person": [INDEX_ATTRIBUTE, "pose"],
        "car": [INDEX_ATTRIBUTE, "pose", "plate"],
        "bus": [INDEX_ATTRIBUTE, "pose", "plate"],
    }
    index = schema.labels()[0].attributes[0]
    assert (index.mutable, index.input_type, index.default_value) == (False, "number", "0")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (None, "label_field"),
        ({None: {}}, "label_field"),
        (
            {
                "a": {"type": "polygons", "classes": ["x"]},
                "b": {"type": "instances", "classes": ["x"]},
                "c": {"type": "instances", "classes": ["x_a"]},
            },
            "both be called 'x_a'",
        ),
        ({name: {"type": "instances", "classes": ["x" * 63]} for name in "ab"}, "shorter"),
        (
            {"a": {"type": "instances", "classes": ["x"], "attributes": {n: {"type": "occluded"} for n in "hk"}}},
            "both have type",
        ),
        ({"a": {"type": "instances", "classes": []}}, "classes"),
        ({"a": {"type": "instances", "classes": ["x", "x"]}}, "twice"),
        ({"a": {"type": "instances", "classes": ["x"], "attributes": {"c": {"type": "colour"}}}}, "colour"),
        ({"a": {"type": "instances", "classes": ["x"], "attributes": {"c": {"type": "select"}}}}, "values"),
        (
            {"a": {"type": "instances", "classes": ["x"], "attributes": {"c": {"type": "number", "values": [1]}}}},
            "minimum",
        ),
    ],
)
def test_what_cvat_cannot_hold_is_refused_in_a_sentence(schema: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run_schema(schema)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(min_size=1),
    "checkbox": st.booleans(),
    "number": st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False),
}


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_values_come_back_with_their_type(kind: str) -> None:
    attribute = Attribute(name="a", type=kind)

    @given(value=VALUES[kind] | st.none())
    def there_and_back(value: Any) -> None:
        back = attribute.decode(attribute.encode(value))
        assert back == value
        assert type(back) is type(value)

    there_and_back()


@given(values=st.lists(st.integers() | st.text(min_size=1) | st.booleans(), min_size=1, unique_by=str), data=st.data())
def test_choices_come_back_with_their_type(values: list[Any], data: st.DataObject) -> None:
    attribute = Attribute(name="a", type="select", values=tuple(values))
    if len({attribute.encode(value) for value in values}) < len(values):
        return
    value = data.draw(st.sampled_from(values))
    back = attribute.decode(attribute.encode(value))
    assert back == value
    assert type(back) is type(value)


def test_text_stays_text_unless_coercion_is_asked_for() -> None:
    attribute = Attribute(name="a", type="text")
    assert attribute.decode("007") == "007"
    assert attribute.decode("007", coerce_text=True) == 7
    assert attribute.decode("true", coerce_text=True) is True
