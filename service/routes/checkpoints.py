"""Checkpoints: a session's state out, as a file. Posting one to /v1/sessions makes a session of it again."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.routes.bodies import send_encoded
from service.sessions import checkpoint
from service.sessions.engine import Engine
from service.wire.negotiation import answer_form
from service.wire.safetensors import MEDIA_TYPE


class _File(Response):
    """An answer in pieces that are sent from where they lie."""

    def __init__(self, chunks: list[bytes | memoryview], name: str) -> None:
        length = sum(map(len, chunks))
        disposition = f'attachment; filename="{name}"'
        super().__init__(None, 200, {"content-type": MEDIA_TYPE, "content-disposition": disposition})
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self.raw_headers.append((b"content-length", str(length).encode()))
        self._chunks = chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send_encoded(send, self.status_code, self.raw_headers, self._chunks)


def router(engine: Engine) -> APIRouter:
    """The route of a session's checkpoint."""
    routes = APIRouter(tags=["sessions"])

    @routes.get(
        "/v1/sessions/{id}/state",
        operation_id="getState",
        response_class=Response,
        responses={
            200: {
                "description": "A safetensors file that describes itself. Its tensors are params/NAME and "
                "slots/SLOT/NAME, its metadata JSON texts: checkpoint, thalweg, optimizer, transforms, groups, layout, "
                "step, updates, counts, session, digest.",
                "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def state(
        id: str, request: Request, step: Annotated[int | None, Query(ge=0, description="The newest by default.")] = None
    ) -> Response:
        """Read a checkpoint: parameters, the optimizer's state and its specification, after any step that is kept.

        POST it to /v1/sessions, as it is, and a new session goes on from there, bit for bit.
        """
        answer_form(request.headers.raw, (MEDIA_TYPE,))
        session = await engine.session_at(await engine.get(id), step)
        chunks = await asyncio.to_thread(checkpoint.pack, session)
        return _File(chunks, f"{id}-{session.step}.safetensors")

    return routes
