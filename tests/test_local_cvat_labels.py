"""Labels of the local server: every kind of shape, skeletons, changes by PATCH, and tasks that move into a project."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fixtures_local_cvat import LABELS, Api, box, payload, track

from labelprop_cvat.backend.local_cvat import LocalCVAT

NODES = ("nose", "tail")
SKELETON = {
    "name": "cat",
    "type": "skeleton",
    "attributes": [
        {"name": "index", "mutable": False, "input_type": "number", "values": ["0", "9", "1"], "default_value": "0"},
        {"name": "mood", "mutable": True, "input_type": "select", "values": ["calm", "wild"], "default_value": "calm"},
    ],
    "sublabels": [{"name": name, "type": "points"} for name in NODES],
    "svg": "".join(f'<circle data-node-id="{n}" data-label-name="{name}"></circle>' for n, name in enumerate(NODES)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalCVAT]:
    with LocalCVAT(users={"admin": "secret", "ann": "ann-secret"}, anonymous_rate=None) as running:
        yield running


@pytest.fixture
def api(server: LocalCVAT) -> Api:
    return Api(server)


def labels_of(api: Api, task_id: int) -> dict[str, dict[str, Any]]:
    return {label["name"]: label for label in api.get(f"labels?task_id={task_id}&page_size=all")["results"]}


def job_of(api: Api, task_id: int) -> str:
    return f"jobs/{api.jobs(task_id)[0]['id']}/annotations"


def project(api: Api, labels: Any = LABELS) -> int:
    answer = api.call("POST", "projects", {"name": "p", "labels": labels})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


# Kinds of shapes


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("rectangle", [1, 2, 9, 8]),
        ("polygon", [1, 1, 9, 1, 9, 9]),
        ("polyline", [1, 1, 9, 9]),
        ("points", [1, 1, 5, 5, 9, 9]),
        ("ellipse", [5, 5, 9, 2]),
        ("cuboid", [float(n) for n in range(16)]),
        ("mask", [2, 2, 1, 1, 2, 2]),
    ],
)
def test_every_shape_comes_back_as_it_went(api: Api, kind: str, points: list[float]) -> None:
    task_id = api.image_task(3)
    label_id, spec = api.label(task_id)
    shape = box(
        label_id, 1, type=kind, points=points, occluded=True, z_order=3, rotation=12.5, group=4, source="semi-auto"
    )
    shape["attributes"] = [{"spec_id": spec["index"], "value": "7"}, {"spec_id": spec["speed"], "value": "fast"}]
    api.call("PUT", job_of(api, task_id), payload(shapes=[shape]))
    (found,) = api.get(job_of(api, task_id))["shapes"]
    assert {name: found[name] for name in shape} == shape


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("polygon", [1, 1, 9, 1, 9, 9]),
        ("polyline", [1, 1, 9, 9]),
        ("points", [1, 1]),
        ("ellipse", [5, 5, 9, 2]),
        ("cuboid", [float(n) for n in range(16)]),
    ],
)
def test_every_track_comes_back_as_it_went(api: Api, kind: str, points: list[float]) -> None:
    task_id = api.image_task(3)
    label_id, _ = api.label(task_id)
    sent = track(label_id, 0, 2)
    for shape in sent["shapes"]:
        shape.update(type=kind, points=points)
    api.call("PUT", job_of(api, task_id), payload(tracks=[sent]))
    (found,) = api.get(job_of(api, task_id))["tracks"]
    assert [(s["type"], s["points"]) for s in found["shapes"]] == [(kind, points)] * 2


def test_tags_carry_attributes_and_groups(api: Api) -> None:
    task_id = api.image_task(2)
    label_id, spec = api.label(task_id)
    tag = {"label_id": label_id, "frame": 1, "group": 3, "attributes": [{"spec_id": spec["speed"], "value": "fast"}]}
    api.call("PUT", job_of(api, task_id), payload(tags=[tag]))
    (found,) = api.get(job_of(api, task_id))["tags"]
    values = {item["spec_id"]: item["value"] for item in found["attributes"]}
    assert (found["group"], values) == (3, {spec["speed"]: "fast", spec["index"]: "0"})


@pytest.mark.parametrize(("rotation", "status"), [(0, 200), (360, 200), (-1, 400), (361, 400)])
def test_rotations_go_once_around(api: Api, rotation: float, status: int) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    answer = api.call("PUT", job_of(api, task_id), payload(shapes=[box(label_id, rotation=rotation)]))
    assert answer.status_code == status


def test_values_of_attributes_have_a_length(api: Api) -> None:
    task_id = api.image_task(1)
    label_id, spec = api.label(task_id)
    for length, status in ((4096, 200), (4097, 400)):
        tag = {"label_id": label_id, "frame": 0, "attributes": [{"spec_id": spec["speed"], "value": "x" * length}]}
        assert api.call("PUT", job_of(api, task_id), payload(tags=[tag])).status_code == status


def test_a_level_is_checked_for_nodes_too(api: Api) -> None:
    task_id = api.image_task(1, labels=[SKELETON])
    cat = labels_of(api, task_id)["cat"]
    shape = skeleton(cat)
    shape["elements"][0]["attributes"] = [{"spec_id": cat["attributes"][0]["id"], "value": "1"}]
    answer = api.call("PUT", job_of(api, task_id), payload(shapes=[shape]))
    assert (answer.status_code, "is invalid" in answer.text) == (400, True)


# Skeletons


def skeleton(cat: dict[str, Any], frame: int = 0) -> dict[str, Any]:
    elements = [
        {"type": "points", "frame": frame, "label_id": sub["id"], "points": [n, 2 * n], "outside": n == 1}
        for n, sub in enumerate(cat["sublabels"])
    ]
    return {"type": "skeleton", "frame": frame, "label_id": cat["id"], "points": [], "elements": elements}


def test_a_skeletons_drawing_names_its_nodes_by_id(api: Api) -> None:
    task_id = api.make_task(labels=[SKELETON])
    cat = labels_of(api, task_id)["cat"]
    assert [(sub["name"], sub["type"], sub["has_parent"]) for sub in cat["sublabels"]] == [
        ("nose", "points", True),
        ("tail", "points", True),
    ]
    for sub in cat["sublabels"]:
        assert f'data-label-id="{sub["id"]}"' in cat["svg"]
    assert "data-label-name" not in cat["svg"]
    assert "svg" not in labels_of(api, api.make_task())["car"]


def test_skeletons_keep_their_elements(api: Api) -> None:
    task_id = api.image_task(2, labels=[SKELETON])
    cat = labels_of(api, task_id)["cat"]
    path = job_of(api, task_id)
    api.call("PUT", path, payload(shapes=[skeleton(cat, 0), skeleton(cat, 1)]))
    first, second = api.get(path)["shapes"]
    assert [(e["label_id"], e["points"], e["outside"]) for e in first["elements"]] == [
        (cat["sublabels"][0]["id"], [0, 0], False),
        (cat["sublabels"][1]["id"], [1, 2], True),
    ]
    first["elements"][0]["points"] = [5, 6]
    api.call("PATCH", f"{path}?action=update", payload(shapes=[first]))
    changed, untouched = api.get(path)["shapes"]
    assert [e["id"] for e in changed["elements"]] == [e["id"] for e in first["elements"]]
    assert (changed["elements"][0]["points"], untouched) == ([5, 6], second)
    api.call("PATCH", f"{path}?action=delete", payload(shapes=[second]))
    assert [s["id"] for s in api.get(path)["shapes"]] == [first["id"]]


def skeleton_track(cat: dict[str, Any], *frames: int) -> dict[str, Any]:
    def shapes(kind: str, points: list[list[int]]) -> list[dict[str, Any]]:
        return [{"type": kind, "frame": f, "points": p} for f, p in zip(frames, points, strict=True)]

    return {
        "label_id": cat["id"],
        "frame": frames[0],
        "shapes": shapes("skeleton", [[] for _ in frames]),
        "elements": [
            {"label_id": sub["id"], "frame": frames[0], "shapes": shapes("points", [[10 * f, n] for f in frames])}
            for n, sub in enumerate(cat["sublabels"])
        ],
    }


def test_skeleton_tracks_are_cut_at_jobs_with_their_nodes(api: Api) -> None:
    task_id = api.image_task(4, labels=[SKELETON], segment_size=2)
    cat = labels_of(api, task_id)["cat"]
    answer = api.call("PUT", f"tasks/{task_id}/annotations", payload(tracks=[skeleton_track(cat, 0, 3)]))
    assert answer.status_code == 200, answer.text
    for job, frames in zip(api.jobs(task_id), ([0, 1], [2, 3]), strict=True):
        (found,) = api.get(f"jobs/{job['id']}/annotations")["tracks"]
        assert [s["frame"] for s in found["shapes"]] == frames
        for n, element in enumerate(found["elements"]):
            assert [s["points"] for s in element["shapes"]] == [[10.0 * f, n] for f in frames]


def test_mutable_values_of_skeletons_are_carried_forward(api: Api) -> None:
    task_id = api.image_task(3, labels=[SKELETON])
    cat = labels_of(api, task_id)["cat"]
    mood = cat["attributes"][1]["id"]
    sent = skeleton_track(cat, 0, 2)
    sent["shapes"][0]["attributes"] = [{"spec_id": mood, "value": "wild"}]
    api.call("PUT", job_of(api, task_id), payload(tracks=[sent]))
    (found,) = api.get(job_of(api, task_id))["tracks"]
    assert [s["attributes"] for s in found["shapes"]] == [[{"spec_id": mood, "value": "wild"}]] * 2


def test_nothing_becomes_a_skeleton_or_ceases_to_be_one(api: Api) -> None:
    task_id = api.make_task(labels=[SKELETON, *LABELS])
    labels = labels_of(api, task_id)
    assert api.call("PATCH", f"labels/{labels['cat']['id']}", {"type": "points"}).json()["type"] == "skeleton"
    assert api.call("PATCH", f"labels/{labels['car']['id']}", {"type": "skeleton"}).json()["type"] == "any"
    assert api.call("PATCH", f"labels/{labels['car']['id']}", {"type": "tag"}).json()["type"] == "tag"


# Changes


def test_labels_are_added_renamed_and_deleted_through_their_task(api: Api) -> None:
    task_id = api.image_task(1)
    car = labels_of(api, task_id)["car"]
    path = job_of(api, task_id)
    api.call("PUT", path, payload(shapes=[box(car["id"])]))
    changes = [{"id": car["id"], "name": "lorry"}, {"name": "tram", "attributes": []}]
    assert api.call("PATCH", f"tasks/{task_id}", {"labels": changes}).status_code == 200
    labels = labels_of(api, task_id)
    assert (set(labels), labels["lorry"]["id"], labels["lorry"]["attributes"]) == (
        {"lorry", "tram"},
        car["id"],
        car["attributes"],
    )
    gone = [{"id": car["id"], "name": "lorry", "deleted": True}]
    assert api.call("PATCH", f"tasks/{task_id}", {"labels": gone}).status_code == 200
    assert (set(labels_of(api, task_id)), api.get(path)["shapes"]) == ({"tram"}, [])


def test_attributes_are_added_and_changed_by_name_or_id_and_never_removed(api: Api) -> None:
    task_id = api.make_task()
    car = labels_of(api, task_id)["car"]
    index, speed = car["attributes"]
    colour = {"name": "colour", "mutable": False, "input_type": "text", "values": []}
    changed = [{**speed, "id": None, "default_value": "fast"}, {"id": index["id"], "name": "number"}, colour]
    answer = api.call("PATCH", f"labels/{car['id']}", {"attributes": changed})
    assert answer.status_code == 200, answer.text
    found = answer.json()["attributes"]
    assert [(a["id"], a["name"], a["default_value"]) for a in found[:2]] == [
        (index["id"], "number", "0"),
        (speed["id"], "speed", "fast"),
    ]
    assert [a["name"] for a in found] == ["number", "speed", "colour"]


@pytest.mark.parametrize(
    ("labels", "status", "message"),
    [
        ([{"id": 999_999, "name": "x"}], 404, "Not found label with id #999999 to change"),
        ([{"name": "car"}], 400, "All label names must be unique"),
        ([{"name": "x" * 65}], 400, "no more than 64 characters"),
        ([{"name": "x", "type": "blob"}], 400, "not a valid choice"),
        ([{"deleted": True, "name": "car"}], 400, "must have an ID"),
        ([{"name": "x", "attributes": [{"name": "a"}]}], 400, "input_type"),
        ([{"name": "x", "attributes": [{**LABELS[0]["attributes"][0]}] * 2}], 400, "Duplicate attribute"),
        ([{"name": "x", "sublabels": [{"type": "points"}]}], 400, "This field is required"),
        (["car"], 400, "Expected a dictionary"),
        ("car", 400, "Expected a list"),
    ],
)
def test_definitions_that_are_refused(api: Api, labels: Any, status: int, message: str) -> None:
    task_id = api.make_task()
    answer = api.call("PATCH", f"tasks/{task_id}", {"labels": labels})
    assert (answer.status_code, message in answer.text) == (status, True), answer.text
    assert set(labels_of(api, task_id)) == {"car"}


def test_a_label_is_not_deleted_by_changing_it(api: Api) -> None:
    task_id = api.make_task()
    car = labels_of(api, task_id)["car"]
    assert api.call("PATCH", f"labels/{car['id']}", {"deleted": True}).status_code == 400
    assert set(labels_of(api, task_id)) == {"car"}


# Projects


def test_tasks_take_the_labels_of_their_project(api: Api) -> None:
    project_id = project(api)
    tasks = [api.image_task(1, labels=[], project_id=project_id) for _ in range(2)]
    (theirs,) = api.get(f"labels?project_id={project_id}")["results"]
    assert [labels_of(api, task_id) for task_id in tasks] == [{"car": theirs}] * 2
    assert api.call("POST", "tasks", {"name": "x", "project_id": project_id, "labels": LABELS}).status_code == 400
    assert api.call("PATCH", f"tasks/{tasks[0]}", {"labels": [{"name": "bus"}]}).status_code == 400
    api.call("PATCH", f"projects/{project_id}", {"labels": [{"name": "bus", "attributes": []}]})
    assert [set(labels_of(api, task_id)) for task_id in tasks] == [{"car", "bus"}] * 2
    assert {task["id"] for task in api.get(f"tasks?project_id={project_id}")["results"]} == set(tasks)
    assert api.get(f"jobs?task_id={tasks[0]}")["results"][0]["project_id"] == project_id


def move(api: Api, task_id: int, project_id: Any, **fields: Any) -> Any:
    return api.call("PATCH", f"tasks/{task_id}", {"project_id": project_id, **fields})


def test_a_task_moves_into_a_project_with_all_that_people_drew(api: Api) -> None:
    task_id = api.image_task(3, labels=[*LABELS, SKELETON])
    labels = labels_of(api, task_id)
    car, cat = labels["car"], labels["cat"]
    index, speed = (attribute["id"] for attribute in car["attributes"])
    moving = track(car["id"], 0, 2, attributes=[{"spec_id": index, "value": "3"}])
    moving["shapes"][0]["attributes"] = [{"spec_id": speed, "value": "fast"}]
    tag = {"label_id": car["id"], "frame": 2, "attributes": [{"spec_id": index, "value": "4"}]}
    path = job_of(api, task_id)
    api.call("PUT", path, payload(shapes=[skeleton(cat)], tracks=[moving], tags=[tag]))
    before = api.get(path)

    project_id = project(api, [SKELETON, *LABELS])
    answer = move(api, task_id, project_id)
    assert (answer.status_code, answer.json()["project_id"]) == (200, project_id)
    new = labels_of(api, task_id)
    assert {label["id"] for label in labels.values()}.isdisjoint(label["id"] for label in new.values())
    for label in labels.values():
        assert api.call("GET", f"labels/{label['id']}").status_code == 404
    ids = {
        old["id"]: fresh["id"]
        for name in ("car", "cat")
        for old, fresh in zip(
            [labels[name], *labels[name]["sublabels"]], [new[name], *new[name]["sublabels"]], strict=True
        )
    }
    specs = {
        old["id"]: fresh["id"]
        for name in ("car", "cat")
        for old, fresh in zip(labels[name]["attributes"], new[name]["attributes"], strict=True)
    }
    assert api.get(path) == translated(before, ids, specs)


def translated(value: Any, labels: dict[int, int], specs: dict[int, int]) -> Any:
    if isinstance(value, list):
        return [translated(item, labels, specs) for item in value]
    if not isinstance(value, dict):
        return value
    ids = {"label_id": labels, "spec_id": specs}
    return {name: ids[name][item] if name in ids else translated(item, labels, specs) for name, item in value.items()}


def test_a_task_moves_on_to_another_project(api: Api) -> None:
    first, second = project(api), project(api)
    task_id = api.image_task(1, labels=[], project_id=first)
    other = api.image_task(1, labels=[], project_id=first)
    label_id, _ = api.label(task_id)
    for moved in (task_id, other):
        api.call("PUT", job_of(api, moved), payload(shapes=[box(label_id)]))
    assert move(api, task_id, second).status_code == 200
    (shape,) = api.get(job_of(api, task_id))["shapes"]
    assert shape["label_id"] == labels_of(api, task_id)["car"]["id"] != label_id
    # The first project and its other task keep theirs.
    assert api.get(job_of(api, other))["shapes"][0]["label_id"] == label_id


def test_labels_are_mapped_to_other_names_by_the_way(api: Api) -> None:
    task_id = api.image_task(1, labels=[{**LABELS[0], "name": "auto"}])
    label_id, _ = api.label(task_id)
    api.call("PUT", job_of(api, task_id), payload(shapes=[box(label_id)]))
    project_id = project(api)
    assert move(api, task_id, project_id, labels=[{"id": label_id, "name": "car"}]).status_code == 200
    assert api.get(job_of(api, task_id))["shapes"][0]["label_id"] == labels_of(api, task_id)["car"]["id"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "must be mapped to the target project"),
        ([{"name": "car", "attributes": []}], 'does not have "car" label with "index" attribute'),
        (
            [{**LABELS[0], "attributes": [{**a, "input_type": "text"} for a in LABELS[0]["attributes"]]}],
            'does not have "car" label with "index" attribute',
        ),
    ],
)
def test_a_project_that_lacks_a_label_takes_no_task(api: Api, labels: Any, message: str) -> None:
    task_id = api.image_task(1)
    label_id, _ = api.label(task_id)
    api.call("PUT", job_of(api, task_id), payload(shapes=[box(label_id)]))
    before = api.get(job_of(api, task_id))
    answer = move(api, task_id, project(api, labels), name="renamed")
    assert answer.status_code == 400
    assert message in str(answer.json())
    assert (api.get(job_of(api, task_id)), api.get(f"tasks/{task_id}")["name"]) == (before, "task")


def test_naming_the_project_that_a_task_is_in_moves_nothing(api: Api) -> None:
    project_id = project(api)
    task_id = api.image_task(1, labels=[], project_id=project_id)
    assert move(api, task_id, project_id, name="renamed").json()["name"] == "renamed"
    label_id, _ = api.label(task_id)
    refused = move(api, task_id, project_id, labels=[{"id": label_id, "name": "lorry"}])
    assert "Update the project's labels" in refused.text
    assert set(labels_of(api, task_id)) == {"car"}


@pytest.mark.parametrize("target", [999_999, None, "p"])
def test_a_project_that_is_not_there_takes_no_task(api: Api, target: Any) -> None:
    task_id = api.make_task(project_id=project(api), labels=[])
    assert move(api, task_id, target).status_code == 400


def test_a_task_does_not_move_where_its_owner_has_no_business(api: Api, server: LocalCVAT) -> None:
    annotator = Api(server, "ann", "ann-secret")
    task_id = annotator.make_task()
    assert move(annotator, task_id, project(api)).status_code == 403


# Organizations


def test_organizations_by_header_and_by_query(api: Api) -> None:
    made = api.call("POST", "organizations", {"slug": "lab-2"}).json()
    header = {"X-Organization": "lab-2"}
    task_id = api.call("POST", "tasks", {"name": "in the lab", "labels": LABELS}, headers=header).json()["id"]
    other = api.image_task(1)
    for asked in ({"headers": header}, {"params": {"org": "lab-2"}}, {"params": {"org_id": made["id"]}}):
        listed = api.call("GET", "tasks?page_size=all", **asked).json()["results"]
        assert [task["id"] for task in listed] == [task_id]
        assert api.call("GET", "jobs", **asked).json()["count"] == 0
    inside = {task["id"] for task in api.call("GET", "tasks?page_size=all&org=").json()["results"]}
    assert other in inside
    assert task_id not in inside


def test_organizations_are_looked_up_changed_and_deleted_with_their_tasks(api: Api, server: LocalCVAT) -> None:
    made = api.call("POST", "organizations", {"slug": "brief"}).json()
    assert api.get(f"organizations/{made['id']}")["slug"] == "brief"
    assert [o["id"] for o in api.get("organizations?slug=brief")["results"]] == [made["id"]]
    assert api.call("PATCH", f"organizations/{made['id']}", {"name": "Brief lab"}).json()["name"] == "Brief lab"
    assert api.call("POST", "organizations", {"slug": "brief"}).status_code == 400
    assert api.call("POST", "organizations", {"slug": "no good"}).status_code == 400
    stranger = Api(server, "ann", "ann-secret")
    assert stranger.call("DELETE", f"organizations/{made['id']}").status_code == 403
    task_id = api.call("POST", "tasks?org=brief", {"name": "x", "labels": []}).json()["id"]
    assert api.call("DELETE", f"organizations/{made['id']}").status_code == 204
    assert api.call("GET", f"tasks/{task_id}").status_code == 404
    assert api.call("GET", "tasks?org=brief").status_code == 404


# Users and jobs


def test_users_are_listed_and_found_by_name(api: Api, server: LocalCVAT) -> None:
    assert {user["username"] for user in api.get("users?page_size=all")["results"]} == {"admin", "ann"}
    assert [user["username"] for user in api.get("users?search=an")["results"]] == ["ann"]
    assert [user["username"] for user in Api(server, "ann", "ann-secret").get("users")["results"]] == ["ann"]


def test_jobs_by_state_stage_type_and_assignee(api: Api) -> None:
    task_id = api.image_task(6, segment_size=2)
    first, second, third = (job["id"] for job in api.jobs(task_id))
    api.call("PATCH", f"jobs/{first}", {"state": "completed"})
    api.call("PATCH", f"jobs/{second}", {"stage": "acceptance", "state": "completed"})
    api.call("PATCH", f"jobs/{third}", {"assignee": api.get("users?search=ann")["results"][0]["id"]})
    body = {"type": "ground_truth", "task_id": task_id, "frame_selection_method": "manual", "frames": [0]}
    truth = api.call("POST", "jobs", body).json()["id"]

    def found(query: str) -> list[int]:
        return sorted(job["id"] for job in api.get(f"jobs?task_id={task_id}&{query}")["results"])

    assert found("state=completed") == [first, second]
    assert found("stage=acceptance") == [second]
    assert found("state=completed&stage=annotation") == [first]
    assert found("type=annotation") == [first, second, third]
    assert found("type=ground_truth") == [truth]
    assert found("assignee=ann") == [third]
    rule = '{"and":[{"==":[{"var":"state"},"new"]},{"==":[{"var":"type"},"annotation"]}]}'
    assert found(f"filter={rule}") == [third]


def test_issues_and_comments_of_a_job(api: Api) -> None:
    task_id = api.image_task(4, segment_size=2)
    first, second = (job["id"] for job in api.jobs(task_id))
    issue = api.call("POST", "issues", {"job": first, "frame": 1, "position": [1, 2], "message": "look"}).json()
    api.call("POST", "issues", {"job": second, "frame": 2, "position": [1, 2, 3, 4], "message": "there"})
    api.call("POST", "comments", {"issue": issue["id"], "message": "done"})
    assert [i["id"] for i in api.get(f"issues?job_id={first}")["results"]] == [issue["id"]]
    assert api.get(f"issues?task_id={task_id}")["count"] == 2
    assert sorted(c["message"] for c in api.get(f"comments?job_id={first}")["results"]) == ["done", "look"]
    assert api.get(f"jobs/{first}")["issues"]["count"] == 1
    assert api.call("PATCH", f"issues/{issue['id']}", {"resolved": True}).json()["resolved"] is True
    assert api.get(f"issues?job_id={first}&resolved=true")["count"] == 1
    assert api.call("DELETE", f"issues/{issue['id']}").status_code == 204
    assert api.get(f"comments?job_id={first}")["count"] == 0


def test_deleted_frames_of_a_job_leave_those_of_others(api: Api) -> None:
    task_id = api.image_task(4, segment_size=2)
    first, second = (job["id"] for job in api.jobs(task_id))
    api.call("PATCH", f"jobs/{first}/data/meta", {"deleted_frames": [1, 3]})
    api.call("PATCH", f"jobs/{second}/data/meta", {"deleted_frames": [2]})
    assert api.get(f"tasks/{task_id}/data/meta")["deleted_frames"] == [1, 2]
    assert api.get(f"jobs/{second}/data/meta")["deleted_frames"] == [2]
    api.call("PATCH", f"jobs/{first}/data/meta", {"deleted_frames": []})
    assert api.get(f"tasks/{task_id}/data/meta")["deleted_frames"] == [2]
