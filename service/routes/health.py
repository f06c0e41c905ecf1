"""Whether the service lives and whether it can take work."""

import os
import shutil
from pathlib import Path

from fastapi import APIRouter, Request, Response

from service.errors import Unavailable
from service.routes.bodies import answer, json_answer
from service.settings import Settings
from service.stores.base import Store

FREE_BYTES = 64 << 20  # below it the store would soon refuse writes


def router(store: Store, settings: Settings) -> APIRouter:
    """/livez touches nothing; /readyz looks at the store and the disk."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/livez", operation_id="live", responses={200: json_answer("The process answers.", {"status": "live"})})
    async def live(request: Request) -> Response:
        """Say that the process answers."""
        return answer(request, {"status": "live"})

    @routes.get(
        "/readyz", operation_id="ready", responses={200: json_answer("Steps can be taken.", {"status": "ready"})}
    )
    async def ready(request: Request) -> Response:
        """Say whether steps can be taken: the store takes writes and the disk has room."""
        if not store.writable():
            raise Unavailable("The store does not take writes; see the service's own log.", retry_after=5)
        if settings.store == "sqlite" and not _room(settings.data):
            raise Unavailable(f"The disk under {settings.data} is nearly full; make room.", retry_after=60)
        return answer(request, {"status": "ready"})

    return routes


def _room(data: Path) -> bool:
    return os.access(data, os.W_OK) and shutil.disk_usage(data).free > FREE_BYTES
