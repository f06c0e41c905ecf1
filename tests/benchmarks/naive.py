"""What one would write in an afternoon: FastAPI, pydantic and NumPy, sessions in a dictionary, nothing durable."""

import numpy as np
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()
sessions: dict[str, dict[str, np.ndarray | int]] = {}


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
    params = np.array(body.params)
    sessions[body.id] = {"step": 0, "params": params, "m": np.zeros_like(params), "v": np.zeros_like(params)}
    return Stepped(step=0, params=body.params)


@app.post("/v1/sessions/{id}/steps")
async def step(id: str, body: Step) -> Stepped:
    if id not in sessions:
        raise HTTPException(404)
    s = sessions[id]
    g = np.array(body.gradients)
    s["step"] += 1
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["v"] = 0.999 * s["v"] + 0.001 * g * g
    m = s["m"] / (1 - 0.9 ** s["step"])
    v = s["v"] / (1 - 0.999 ** s["step"])
    s["params"] = s["params"] - 0.001 * m / (np.sqrt(v) + 1e-8)
    return Stepped(step=s["step"], params=s["params"].tolist())
