"""A second implementation of the API for tests: FastAPI, with models generated from the OpenAPI document.

Models, their validation and their serialisation are datamodel-code-generator's and Pydantic's; what is here stores
operations and serves one FLAC file. It shares nothing with the simulator, and nothing with the client.
"""

import importlib.util
import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from uuid import UUID

import attrs
import numpy as np
import soundfile
import yaml
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict

CONTRACT = Path(__file__).parent.parent / "data" / "openapi.yaml"
SECONDS = 0.25
"""The length of every file."""
DOOMED = "doomed"
"""A word in a prompt, or in a URL, by which an operation fails."""


class Stripping(BaseModel):
    """The base of generated models that take white space off every text, as many services configure theirs."""

    model_config = ConfigDict(str_strip_whitespace=True)


def generate_models(folder: Path, *, stripping: bool) -> ModuleType:
    """Generate models of the contract into a folder and import them."""
    path = folder / f"models_{stripping}.py"
    base = f"{__name__}.Stripping" if stripping else "pydantic.BaseModel"
    options = (
        "--input-file-type",
        "openapi",
        "--output-model-type",
        "pydantic_v2.BaseModel",
        "--formatters",
        "builtin",
    )
    subprocess.run(  # noqa: S603 - a generator that the tests' own environment has
        [
            sys.executable,
            "-m",
            "datamodel_code_generator",
            "--input",
            CONTRACT,
            "--output",
            path,
            *options,
            "--base-class",
            base,
        ],
        check=True,
    )
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


@attrs.define(eq=False)
class Service:
    """What the application remembers: operations by id, as they will be at their end, and their ids by key."""

    api_key: str
    ended: dict[str, Any] = attrs.field(factory=dict)
    begun: dict[UUID, Any] = attrs.field(factory=dict)
    audio: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.audio = _make_flac()


def make_app(models: ModuleType) -> FastAPI:
    """Build the application: eight routes as the contract has them, and one file; `app.state.service` is its memory."""
    app = FastAPI()
    for path, methods in yaml.safe_load(CONTRACT.read_text())["paths"].items():
        put = methods["put"]
        body = getattr(models, _name(put["requestBody"]["content"]))
        response = getattr(models, _name(put["responses"]["200"]["content"]))
        _add_route(app, path, body=body, response=response)

    @app.get("/audio/{name}")
    async def audio(name: str, request: Request) -> Response:
        service: Service = request.app.state.service
        if "Authorization" in request.headers or name not in {f"{identity}.flac" for identity in service.ended}:
            raise HTTPException(403)
        return Response(service.audio, media_type="audio/flac")

    return app


def _add_route(app: FastAPI, path: str, *, body: type[Any], response: type[Any]) -> None:
    def enter(request: Request) -> Service:
        service: Service = request.app.state.service
        if request.headers.get("Authorization") != f"Bearer {service.api_key}":
            raise HTTPException(401, "Missing or invalid Authorization header")
        return service

    @app.put(path)
    async def submit(submitted: body, request: Request) -> response:  # type: ignore[valid-type]
        service = enter(request)
        key = getattr(submitted, "root", submitted).idempotency_key.root
        if key not in service.begun:
            identity = f"op_{len(service.ended):026}"
            service.begun[key], service.ended[identity] = _work(submitted, response, identity, str(request.base_url))
        return service.begun[key]

    @app.get(path)
    async def poll(id: str, request: Request) -> response:  # type: ignore[valid-type]  # noqa: A002 - as the contract has it
        service = enter(request)
        if id not in service.ended:
            raise HTTPException(422, "There is no such operation")
        return service.ended[id]


def _work(submitted: Any, response: type[Any], identity: str, origin: str) -> tuple[Any, Any]:
    """Return an operation as it begins and as it ends."""
    (envelope, field), *_ = response.model_fields.items()
    operation = next((part for part in get_args(field.annotation) if hasattr(part, "model_fields")), field.annotation)
    members = dict.fromkeys(operation.model_fields) | submitted.model_dump(mode="json")
    members |= {"id": identity, "status": "processing", "created_at": datetime.now(UTC)}
    begun = response.model_validate({envelope: {name: members[name] for name in operation.model_fields}})
    if DOOMED in submitted.model_dump_json():
        members |= {"status": "failed", "error": {"code": "internal_error", "message": "It was doomed."}}
    else:
        result = "output" if "output" in operation.model_fields else "outputs"
        members |= {
            "status": "ready",
            result: _outputs(members, f"{origin}audio/{identity}.flac", several=result == "outputs"),
        }
    return begun, response.model_validate({envelope: {name: members[name] for name in operation.model_fields}})


def _outputs(members: dict[str, Any], url: str, *, several: bool) -> Any:
    output = {"url": url, "expires_at": datetime.now(UTC) + timedelta(minutes=15), "duration": SECONDS}
    if not several:
        return output
    kinds = ("vocals", "drums", "bass", "other")[: members.get("n_variations") or 4]
    return [{**output, "kind": kind, "url": f"{url}?kind={kind}"} for kind in kinds]


def _name(content: Any) -> str:
    """Return the name of the schema that a body has."""
    return str(content["application/json"]["schema"]["$ref"]).rpartition("/")[2]


def _make_flac() -> bytes:
    samples = np.random.default_rng(1).normal(0, 0.1, (round(SECONDS * 44100), 2))
    written = io.BytesIO()
    soundfile.write(written, samples, 44100, format="FLAC", subtype="PCM_16")
    return written.getvalue()
