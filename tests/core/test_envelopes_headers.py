import pytest

from soundpiece_async._core import envelopes

ID = "op_01kd0000000000000000000017"


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        ({"location": f"https://api.example/v1/create.new_fx?id={ID}&wait=true"}, ID),
        ({"location": f"/v1/operations/{ID}"}, ID),
        ({"content-location": f"operations/{ID}/status"}, ID),
        ({"operation-location": "/jobs?job_id=17"}, "17"),
        ({"location": "/v2/jobs/a%2Fb1"}, "a/b1"),
        ({"location": f"?id=&operationId={ID}"}, ID),
        ({"x-operation-id": ID, "location": "/queue"}, ID),
        ({"job-id": "17"}, "17"),
        ({"location": "/v1.2/create.new_fx"}, None),
        ({"location": "https://[/17"}, None),
        ({"location": "/jobs/a%201"}, None),
        ({"x-request-id": "17", "content-type": "a/17"}, None),
        ({}, None),
    ],
)
def test_headers(headers: dict[str, str], identity: str | None) -> None:
    """An id in the query of a location, or the last part of its path with a digit; or in a header of that name."""
    assert envelopes.find_in_headers(headers) == identity


@pytest.mark.parametrize(
    ("link", "identity"),
    [
        (f"https://api.example/v1/create.new_fx?id={ID}", ID),
        (f"/v1/create.new_fx?wait=true&id={ID}", ID),
        ("/v1/create.new_fx?wait=true", None),
        (f"/v1/create.new_song?id={ID}", None),
        (f"/look?at=/create.new_fx?&id={ID}", None),
        ("https://[/create.new_fx?id=1", None),
    ],
)
def test_links(link: str, identity: str | None) -> None:
    """A link is about the operation if it is the GET of its route."""
    assert envelopes.find_in_link(link, route="create.new_fx") == identity


@pytest.mark.parametrize(
    ("link", "identity"),
    [
        ("/v1/create.new_fx?id=17", "17"),
        ("create.new_fx?id=17", "17"),
        ("https://api.example/v1/create.new_fx/17", "17"),
        ("/v1/jobs/17", "17"),
        ("/v1/Operations/a1?id=17", "17"),
        ("/v1/jobs?id=17", "17"),
        (f"/status/{ID}", ID),
        (f"/result?operation_id={ID}", ID),
        ("/login/2fa?next=/v1/create.new_fx", None),
        ("/login?session_id=1&id=17", None),
        ("/v1/create.new_fx/", None),
        ("/v1/create.new_fx", None),
        ("/17", None),
        ("https://[/jobs/17", None),
        ("", None),
    ],
)
def test_redirects(link: str, identity: str | None) -> None:
    """A redirect may lead anywhere: only what is plainly an operation counts."""
    assert envelopes.find_in_redirect({"location": link}, route="create.new_fx") == identity
    assert envelopes.find_in_redirect({}, route="create.new_fx") is None
