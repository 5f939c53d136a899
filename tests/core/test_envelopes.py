from typing import Any

import pytest
from helpers.contract import EXAMPLES, JSON, SAMPLE, change, poll, submit, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.envelopes import MAX_OBJECTS, find_documented, find_operation, lacks_outputs

OP: dict[str, Any] = SAMPLE.processing["sample"]
OTHER_ID = "op_01kd0000000000000000000099"
PLAIN = {"id": "17", "status": "queued"}
ROUTE = SAMPLE.route


def find(data: object, **known: Any) -> Any:
    found = find_operation(data, route=ROUTE, **known)
    return None if found is None else found.get("id")


@pytest.mark.parametrize(
    "data",
    [
        {"sample": PLAIN},
        {"data": {"sample": PLAIN}},
        {"data": PLAIN},
        {"data": {"attributes": PLAIN}},
        {"a": {"b": {"c": PLAIN}}},
        {"sample": [PLAIN]},
        [PLAIN],
        PLAIN,
        {"operation": {"id": "17", "outputs": [{"url": "https://h/a"}]}},
        {"operation": {"id": "17", "error": "no luck"}},
        {"operation": PLAIN, "warnings": [{"id": OTHER_ID}], "account": {"id": "a1", "plan": "x"}},
        {"operation": PLAIN, "sample": None},
        {"sample": {"id": "17"}},
        {"sample": {"id": 17}},
        {"operation": {"id": "17"}},
        {"operation_id": "17", "status": "queued"},
        {"sample": {"operationId": "17"}},
        {"data": {"op_id": "17"}, "ok": True},
        {"sample": {"id": None, "status": "queued", "operation_id": "17"}},
        {"data": {"type": "operation", "id": "17", "attributes": {"status": "queued"}}, "meta": {"id": "req_1"}},
        {"sample": {"id": "17", "attributes": {"status": "queued"}}},
        {"id": "17", "sample": {"status": "queued"}},
        {"statusCode": 202, "body": '{"sample": {"id": "17", "status": "queued"}}'},
        {"body": '{"a": {"b": {"c": {"id": "17", "status": "queued"}}}}', "note": "{}", "text": "{"},
        {"_id": "17", "status": "queued"},
        {"_id": {"$oid": "17"}},
        {"oid": 17},
        {"sample": {"uuid": "17", "status": "queued"}, "request_id": "req_1"},
        {"request_id": "17", "sample": {"status": "queued", "output": {"id": "file_1"}}},
        {"requestId": "17"},
        {"operation": {"id": "17"}, "request_id": "req_1"},
        {"request": {"id": "req_1"}, "operation": {"request_id": "17", "status": "queued"}},
        {"name": "operations/17", "done": False},
        {"name": "projects/5/operations/17", "done": True, "response": {"output": {"url": "https://h/a"}}},
        {"status": "queued", "links": {"self": f"https://h/v1/{ROUTE}?id=17"}},
        {"request_id": "req_1", "status_url": f"/v1/{ROUTE}?wait=true&id=17"},
        {"_links": {"self": {"href": f"/v1/{ROUTE}?id=17"}}, "status": "queued"},
        {"links": [{"rel": "self", "href": f"/v1/{ROUTE}?id=17"}], "source": f"/v1/{ROUTE}?id=18"},
        {"Sample": {"Id": "17", "Status": "Queued"}},
        {"sample": {"ID": 17, "state": {"name": "queued"}}},
        {"Job": {"JobId": "17", "JobStatus": "IN_PROGRESS"}},
        {"responses": [{"status": 200, "body": {"sample": PLAIN}}]},
        {"user": {"id": "u1", "status": "active", "job": {"id": "17"}}},
    ],
    ids=str,
)
def test_found(data: object) -> None:
    """Under the known name, or any other, bare, nested, in a list: the sole object with an id and a status."""
    assert str(find(data)) == "17"


@pytest.mark.parametrize(
    ("data", "identity"),
    [
        ({}, "17"),
        ({"status": "queued"}, "17"),
        ({"request_id": "req_1", "name": "x"}, "17"),
        ({"user": {"id": "u1"}}, "17"),
        ({"id": "18"}, "18"),
        ({"id": "18", "status": "queued"}, "18"),
        ({"status": "queued", "link": f"/v1/{ROUTE}?id=18"}, "18"),
        ([{"a": PLAIN, "b": {**PLAIN, "id": "18"}}], None),
        ([{"status": "queued"}, {"status": "queued"}], None),
    ],
)
def test_an_id_in_the_headers(data: object, identity: str | None) -> None:
    """It counts where the outermost object has no id, nor any with a status."""
    assert find(data, hint="17") == identity


def test_ids_of_the_usual_form_are_found_anywhere() -> None:
    """A text of that form names the operation, whatever its member is called."""
    assert find({"created": OTHER_ID, "ok": True}) == OTHER_ID
    assert find({"created": OTHER_ID, "parent": SAMPLE.id}) is None


def test_a_text_that_is_an_id() -> None:
    """An answer that is nothing else is the id, if that has the usual form."""
    assert find(f" {OTHER_ID}\n") == OTHER_ID
    assert find("17") is None


@pytest.mark.parametrize(
    "data",
    [
        {"sample": {"id": "17", "status": "ready"}, "output": {"url": "https://h/a"}},
        {"status": "success", "data": {"job": {"id": "17", "status": "done"}, "result": {"output": "https://h/a"}}},
        {"status": "ready", "output": {"url": "https://h/a"}},
        {"done": True, "response": {"outputs": ["https://h/a"]}},
    ],
)
def test_outputs_of_a_poll_are_found_beside_it(data: object) -> None:
    """Outputs without an id, alone or beside the operation, belong to the requested operation."""
    found = find_operation(data, route=ROUTE, asked="17")

    assert found is not None
    assert found.get("output") or found.get("outputs")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"status": "running", "progress": 1}, True),
        ({"status": "error", "message": "try again"}, False),
        ({"status": "success", "data": None}, False),
        ({"a": {"output": "https://h/a"}, "b": {"output": "https://h/b"}}, False),
    ],
)
def test_an_answer_to_a_poll_without_an_id(data: object, found: bool) -> None:  # noqa: FBT001 - a column
    """It tells how the operation stands, or it is about something else."""
    assert (find_operation(data, route=ROUTE, asked="17") is not None) is found


@pytest.mark.parametrize(
    ("status", "beside"),
    [("queued", [{"output": "https://h/a"}]), ("ready", [{"output": "https://h/a"}, {"output": "https://h/b"}])],
)
def test_outputs_beside_an_operation_may_be_of_another(status: str, beside: list[Any]) -> None:
    """While it runs, and if there are several, there is nothing to take."""
    found = find_operation({"sample": {"id": "17", "status": status}, "more": beside}, route=ROUTE, asked="17")

    assert found == {"id": "17", "status": status}


def test_the_known_name_goes_first() -> None:
    """Under its name the operation is taken, also beside another."""
    assert find({"parent": {"id": OTHER_ID, "status": "ready"}, "sample": PLAIN}) == "17"


@pytest.mark.parametrize(
    ("data", "known"),
    [
        ({"id": "req_1", "status": "ok", "data": PLAIN}, {"asked": "17"}),
        ({"id": "req_1", "status": "ok", "data": {**PLAIN, "idempotency_key": OP["idempotency_key"]}}, {}),
        (
            {
                "a": {**PLAIN, "idempotency_key": OP["idempotency_key"].upper()},
                "b": {"id": OTHER_ID, "status": "x", "idempotency_key": "7a1f0c52-3b9e-4d6a-9c40-000000000000"},
            },
            {"key": OP["idempotency_key"]},
        ),
        ({"id": "req_1", "status": "ok", "data": {**PLAIN, "output": None, "error": None}}, {}),
        ({**PLAIN, "created_at": "x", "outputs": [{"id": "file_1", "status": "ok", "url": "https://h/a"}]}, {}),
        ([{"_id": "18", "status": "queued"}, {"_id": "17", "status": "queued"}], {"asked": "17"}),
    ],
    ids=["asked", "more members", "the key sent", "members of an operation", "outputs with ids", "asked by `_id`"],
)
def test_the_likeliest_of_several(data: object, known: dict[str, str]) -> None:
    """Of several objects with id and status that one is taken which has most of an operation about it."""
    assert find(data, **known) == "17"


def test_the_usual_form_of_an_id_counts() -> None:
    """Of two that are else alike, the id tells."""
    assert find({"request": PLAIN, "x": {"id": OTHER_ID, "status": "queued"}}) == OTHER_ID


@pytest.mark.parametrize(
    "data",
    [
        *({}, [], None, 5, "ready", {"sample": None}, {"detail": "fine"}, {"sample": {"id": None}}),
        {"a": PLAIN, "b": {**PLAIN, "id": "18"}},
        {"a": {"b": {"c": {"d": PLAIN}}}},
        {"sample": {"id": "op 1", "prompt": "x"}},
        {"user": {"id": "u1"}},
        {"data": {"owner": {"id": "u1", "status": "active"}, "customer": [{"id": "c1"}]}},
        {"sample": {"state": {"code": 1}}},
        {"operation": "create.new_fx"},
        {"request_id": OP["idempotency_key"]},
        {"_id": "17", "uuid": "18"},
        {"_id": {"a": "17", "b": "18"}},
        {"prompt": '{"id": "17", "status": "queued"}'},
        {"body": '{"id": "17"'},
        {"name": "operations", "status": "queued"},
        {"status": "queued", "user": {"uuid": "17"}},
        {"source": {"url": f"https://h/v1/{ROUTE}?id=17"}},
    ],
    ids=str,
)
def test_not_found(data: object) -> None:
    """None at all, or several that are equally likely."""
    assert find(data, key=OP["idempotency_key"]) is None


def test_the_same_twice_is_one() -> None:
    """An operation that stands in two places is one operation."""
    assert find({"a": PLAIN, "b": dict(PLAIN)}) == "17"


def test_a_poll_without_an_id() -> None:
    """Which operation was asked about is known; under the known name its answer needs no id."""
    data = change(SAMPLE.ready, id=None)

    assert find_operation(data, route=ROUTE, asked="17") == data["sample"]
    assert find_operation(data, route=ROUTE) is None
    assert poll(SAMPLE, data).id == SAMPLE.id


def test_huge_answers_are_looked_at_in_part() -> None:
    """Only so many objects are looked at, the outer ones first."""
    many = {str(number): {"x": 1} for number in range(3 * MAX_OBJECTS)}

    assert find({**many, "last": PLAIN}) is None
    assert find({"first": PLAIN, **many}) == "17"
    assert find({"many": [many], "sample": PLAIN}) == "17"


def test_ids_that_are_numbers() -> None:
    """They are read as text: the handle needs one."""
    for number in (17, 17.0):
        assert submit(SAMPLE, change(SAMPLE.processing, id=number)).handle.id == "17"


@unhurried
@given(JSON)
def test_any_answer(data: Any) -> None:
    """Whatever JSON comes: an object that was in it, or None."""
    for example in EXAMPLES.values():
        found = find_operation(data, route=example.route, asked="x", key="y")
        assert found is None or isinstance(found, dict)


FILE = {"url": "https://h/a.flac"}
FOUND = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["17", 17, " 17", "", None]),
        "status": st.sampled_from(["ready", "processing", "failed", "Done", "odd", "", None, {"name": "ready"}]),
        "state": st.just("ready"),
        "outputs": st.sampled_from([[FILE], [{}], [], None, {"a": {"b": ""}}, {"vocals": "https://h/a.flac"}]),
        "attributes": st.just({"status": "ready"}),
    },
)


@given(st.fixed_dictionaries({}, optional={"sample": FOUND, "beside": FOUND, "outputs": st.just([FILE])}))
def test_what_is_documented_is_found_as_anything_else(data: Any) -> None:
    """The short way finds what the long one does, or nothing, or an operation whose outputs are elsewhere."""
    found = find_documented(data, route=ROUTE, asked="17")
    assert found is None or lacks_outputs(found) or found == find_operation(data, route=ROUTE, asked="17")


def test_the_short_way_is_taken_for_what_is_documented() -> None:
    """While an operation runs, and once it is ready with outputs."""
    for status, outputs in (("processing", None), ("ready", [FILE])):
        operation = {"id": "17", "status": status, "outputs": outputs}
        assert find_documented({"sample": operation}, route=ROUTE, asked="17") is operation
