"""What one would write in an afternoon: FastAPI, pydantic and NumPy, sessions in a dictionary, nothing durable."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from tests.benchmarks import adam

app = FastAPI()
sessions: dict[str, adam.State] = {}


class Create(BaseModel):
    id: str
    params: list[float]


class Step(BaseModel):
    gradients: list[float]


class Stepped(BaseModel):
    step: int
    params: list[float]


@app.post("/v1/sessions", status_code=201)
async def create(body: Create) -> Stepped:
    sessions[body.id] = adam.begin(body.params)
    return Stepped(step=0, params=body.params)


@app.post("/v1/sessions/{id}/steps")
async def step(id: str, body: Step) -> Stepped:
    if id not in sessions:
        raise HTTPException(404)
    state = sessions[id] = adam.advance(sessions[id], body.gradients)
    return Stepped(step=state.step, params=state.params.tolist())
