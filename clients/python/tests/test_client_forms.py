"""Arrays as bytes: written and read as the service does it, chosen by size, and the same bits as JSON."""

from __future__ import annotations

import contextlib
import json
import math

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import thalweg
from thalweg import safetensors
from thalweg.forms import BINARY_FROM
from thalweg.requests import BYTES, JSON, SAFETENSORS, encode_bytes, encode_file
from thalweg.tensors import check, raw, stored
from thalweg.transfer import PIECE, Upload

NAMES = st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda name: name != "__metadata__")
NUMBERS = arrays.arrays(st.sampled_from(["<f8", "<f4", "<f2", ">f8"]), arrays.array_shapes(min_dims=0, min_side=0))
FIELDS = {"step": 3, "loss": 0.5, "return": "params", "worker": "α"}
LARGE = BINARY_FROM + 1


# The format


@given(st.dictionaries(NAMES, NUMBERS, max_size=4))
def test_a_file_is_what_was_written_bit_for_bit(tensors):
    content = encode_file(FIELDS, "gradients", tensors).content
    fields, found = safetensors.parse(content)
    assert fields == FIELDS
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


@settings(max_examples=30)
@given(st.dictionaries(NAMES.filter(bool), NUMBERS, min_size=1, max_size=4))
def test_the_service_and_the_library_of_the_format_read_it(tensors):
    library = pytest.importorskip("safetensors.numpy")
    service = pytest.importorskip("service.wire.safetensors")
    content = encode_file(FIELDS, "gradients", tensors).content
    assert service.fields(service.parse(content, "/gradients")) == FIELDS
    for name, array in library.load(content).items():
        np.testing.assert_array_equal(array, tensors[name])


def test_a_damaged_file_is_an_answer_that_nobody_expected():
    content = encode_file(FIELDS, "gradients", {"w": np.arange(6.0), "b": np.arange(2.0, dtype=np.float32)}).content
    for length in range(len(content)):
        with pytest.raises(thalweg.UnexpectedAnswer):
            safetensors.parse(content[:length])
    for place in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with contextlib.suppress(thalweg.UnexpectedAnswer):
            safetensors.parse(flipped)  # a bit of a number or of a name is nobody's to notice


def test_numbers_are_sent_from_where_they_are():
    array = np.arange(float(PIECE))
    for body in (
        encode_bytes(array, "float64"),
        encode_file({}, "gradients", array),
        encode_file({}, "", {"w": array}),
    ):
        assert np.shares_memory(np.frombuffer(tuple(body.pieces)[-1]), array)
        parts = list(Upload(body, None))
        assert all(isinstance(part, memoryview) and len(part) <= PIECE for part in parts)
        assert b"".join(parts) == body.content
        assert body.length == len(body.content)


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.arange(9.0)[::-2], np.arange(3, dtype=">f4")])
def test_numbers_that_lie_otherwise_are_brought_in_order(array):
    assert bytes(raw(stored(array, "float64"))) == np.ascontiguousarray(array, "<f8").tobytes()


def test_a_number_past_the_range_of_the_session_becomes_infinite_without_a_warning():
    assert np.isinf(stored(np.array([1e300]), "float32")).all()


# The choice


class Recorder:
    """Answers a create and steps as the service does, in the form that is asked for; keeps the requests."""

    def __init__(self, tensors) -> None:
        self.tensors = check(tensors, "")
        self.asked: list[httpx.Request] = []
        self.faults: list[httpx.Response] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        if self.faults:
            return self.faults.pop(0)
        named = isinstance(self.tensors, dict)
        shapes = {k: v.shape for k, v in self.tensors.items()} if named else self.tensors.shape
        step = sum(asked.url.path.endswith("/steps") for asked in self.asked)
        fields = {"id": "s", "step": step, "shapes": shapes, "dtype": "float64", "durable_step": step}
        if request.headers["accept"] == SAFETENSORS:
            content = encode_file(fields, "params", self.tensors).content
            return httpx.Response(200, content=content, headers={"content-type": SAFETENSORS})
        if request.headers["accept"] == BYTES:
            headers = {"content-type": BYTES, "thalweg-step": str(step), "thalweg-durable-step": str(step)}
            return httpx.Response(200, content=self.tensors.tobytes(), headers=headers)
        values = {k: v.tolist() for k, v in self.tensors.items()} if named else self.tensors.tolist()
        return httpx.Response(200, json={**fields, "params": values})


def types_sent(twin, params, gradients, **options):
    service = Recorder(params)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", params, **options))
        await do(session.step(gradients))
        await do(session.step(gradients, returning="none"))

    outcome = twin.run(service, operation)
    if outcome.error:
        raise outcome.error
    return [(asked.headers["content-type"], asked.headers["accept"]) for asked in service.asked]


@pytest.mark.parametrize(
    ("size", "form", "expected"),
    [
        (BINARY_FROM - 1, None, JSON),
        (BINARY_FROM, None, "bytes"),
        (4, "bytes", "bytes"),
        (4 * BINARY_FROM, "json", JSON),
    ],
)
def test_the_form_follows_the_size_unless_it_is_said(twin, size, form, expected):
    array = np.ones(size)
    file, bare = (JSON, JSON) if expected == JSON else (SAFETENSORS, BYTES)
    assert types_sent(twin, array, array, form=form) == [(file, file), (bare, bare), (bare, JSON)]
    named = {"w": array[:2], "b": array[2:]}
    assert types_sent(twin, named, named, form=form) == [(file, file), (file, file), (file, JSON)]


def test_what_bytes_cannot_say_is_json(twin):
    for names in (["params"], ["__metadata__", "w"]):
        named = {name: np.ones(LARGE) for name in names}
        assert types_sent(twin, named, named)[0] == (JSON, JSON)
    many = {f"{'x' * 200}{n}": np.ones(1) for n in range(1000)}  # a header of more than a megabyte
    assert types_sent(twin, many, many)[1] == (JSON, JSON)


def test_a_client_has_a_form_for_all_its_sessions(twin):
    service = Recorder([1.0, 2.0])

    async def operation(client, do):
        await do(client.sessions.create("sgd", [1.0, 2.0]))
        await do(client.sessions.create("sgd", [1.0, 2.0], form="json"))

    assert twin.run(service, operation, form="bytes").error is None
    assert [asked.headers["content-type"] for asked in service.asked] == [SAFETENSORS, JSON]


def test_another_form_is_refused(twin, make):
    async def operation(client, do):
        await do(client.sessions.create("sgd", [1.0], form="binary"))

    assert isinstance(twin.run(make.script(), operation).error, thalweg.InvalidInput)


# Retries


@pytest.mark.parametrize("params", [np.ones(LARGE), {"w": np.ones(LARGE)}, np.ones(1 << 14)])
def test_bytes_are_sent_again_as_they_were(twin, make, params):
    service = Recorder(params)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", params))
        service.faults = [
            make.problem(429, "too-many", headers={"retry-after": "7"}),
            make.problem(503, "unavailable", headers={"retry-after": "9"}),
        ]
        return await do(session.step(params, loss=0.25))

    outcome = twin.run(service, operation)
    assert outcome.value.step == 3  # the service counts requests
    assert outcome.pauses == [7.0, 9.0]
    _, *steps = service.asked
    assert len({(asked.url, asked.content, str(asked.headers)) for asked in steps}) == 1


# Against the service


SHAPES = {"one array": (40, 30), "a vector": (LARGE,), "named": {"w": (30, 20), "b": (20,), "s": ()}}


def draw(rng, shape, dtype):
    if isinstance(shape, dict):
        return {name: draw(rng, one, dtype) for name, one in shape.items()}
    return np.asarray(rng.normal(size=shape), dtype)


def bits(tensors):
    if isinstance(tensors, dict):
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in tensors.items()}
    return tensors.dtype, tensors.shape, tensors.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_bring_the_same_bits(on_service, shape, dtype):
    async def operation(client, do):
        seen = {}
        for form in ("json", "bytes"):
            rng = np.random.default_rng(7)
            session = await do(client.sessions.create("adam", draw(rng, SHAPES[shape], dtype), dtype=dtype, form=form))
            found = [session.params, *[(await do(session.step(draw(rng, SHAPES[shape], dtype)))).params for _ in "abc"]]
            found.append((await do(session.step(draw(rng, SHAPES[shape], "float32"), returning="updates"))).updates)
            await do(session.step(draw(rng, SHAPES[shape], "float64"), loss=0.5, returning="none"))
            found += [await do(session.params_at()), await do(session.params_at(2))]
            third = await do(session.step_at(3))
            found += [third.params, (await do(client.sessions.open(session.id, form=form))).params]
            metrics = third.learning_rate, third.gradient_norm, third.update_norm, third.loss, third.time[:4]
            history = [(step.step, step.gradient_norm, step.loss) for step in await do(session.history())]
            seen[form] = [bits(one) for one in found], metrics, history
        return seen

    seen = on_service(operation)
    assert seen["json"] == seen["bytes"]


def test_a_step_taken_in_one_form_is_answered_again_in_the_other(on_service):
    async def operation(client, do):
        first = await do(client.sessions.create("adam", np.ones(8), form="json"))
        second = await do(client.sessions.open(first.id, form="bytes"))
        gradient = np.linspace(0.1, 0.7, 8)
        await do(first.step(gradient, loss=0.1))
        again = await do(second.step(gradient, loss=0.1))
        return again.replayed, bits(again.params) == bits(first.params)

    assert on_service(operation) == (True, True)


def test_a_create_in_one_form_finds_the_session_of_the_other(on_service, twin):
    async def operation(client, do):
        made = [
            await do(client.sessions.create("adam", np.ones(4, np.float32), id=f"both-{twin.kind}", form=form))
            for form in ("json", "bytes")
        ]
        return [(session.id, session.params.dtype.name) for session in made]

    assert on_service(operation) == [(f"both-{twin.kind}", "float64")] * 2


def test_arrays_that_came_as_bytes_may_be_changed(on_service):
    async def operation(client, do):
        changed = []
        for params in (np.ones(LARGE), {"w": np.ones(LARGE)}, np.ones(1 << 14)):
            session = await do(client.sessions.create({"name": "sgd", "learning_rate": 0.5}, params))
            step = await do(session.step(params))
            for array in [step.params] if isinstance(params, np.ndarray) else step.params.values():
                array *= 2.0
                changed.append(set(array.tolist()))
        return changed

    assert on_service(operation) == [{1.0}] * 3  # half of each was left by the step


def test_no_gradient_and_numbers_that_are_not_finite(on_service):
    async def operation(client, do):
        start = {"w": np.ones(LARGE), "b": np.ones(3)}
        session = await do(client.sessions.create("sgd", start, non_finite="zero"))
        bad = np.ones(LARGE)
        bad[5] = math.nan
        step = await do(session.step({"w": bad, "b": None}))
        nothing = await do(session.step({"w": None, "b": None}))
        single = await do(client.sessions.create("sgd", np.ones(LARGE), non_finite="skip"))
        skipped = await do(single.step(bad))
        return step.zeroed, step.params["b"].tolist(), nothing.update_norm, skipped.skipped

    assert on_service(operation) == (1, [1.0] * 3, 0.0, True)


def test_what_does_not_fit_is_refused_at_its_place(on_service):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", np.ones((30, 20))))
        named = await do(client.sessions.create("sgd", {"w": np.ones((30, 20))}))
        pointers = []
        for call in (
            lambda: session.step(np.ones((20, 30))),  # as many bytes
            lambda: session.step(np.full((30, 20), 1e300)),
            lambda: named.step({"w": np.ones((20, 30))}),
            lambda: named.step({"v": np.ones((30, 20))}),
            lambda: named.step(np.ones((30, 20))),
            lambda: session.step({"w": np.ones((30, 20))}),
        ):
            try:
                await do(call())
                pointers.append(None)
            except thalweg.Invalid as error:
                pointers.append(error.errors[0].pointer)
        return pointers, session.step_number, named.step_number

    pointers, *steps = on_service(operation)
    assert pointers[0].startswith("/gradients")
    assert pointers[2:4] == ["/gradients/w", "/gradients/v"]
    assert all(pointer is not None for pointer in [*pointers[:1], *pointers[2:]])
    assert steps == [1, 0]


def test_an_answer_cut_short_or_of_another_size_is_no_array(twin):
    class Short(Recorder):
        def __call__(self, request):
            answer = super().__call__(request)
            if request.url.path.endswith("/steps"):
                return httpx.Response(200, content=answer.content[:-8], headers={"content-type": BYTES})
            return answer

    for params in (np.ones(LARGE), np.ones(1 << 14)):

        async def operation(client, do, params=params):
            session = await do(client.sessions.create("sgd", params))
            await do(session.step(params))

        assert isinstance(twin.run(Short(params), operation).error, thalweg.UnexpectedAnswer)


def test_progress_is_told_of_a_large_upload(on_service, capsys):
    told = []

    async def operation(client, do):
        params = np.ones(1 << 16)
        session = await do(
            client.sessions.create("sgd", params, progress=lambda sent, total: told.append((sent, total)))
        )
        await do(client.sessions.create("sgd", params, progress=True))
        return session.params.size

    assert on_service(operation) == 1 << 16
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 8 << 16
    assert "100 %  0.5 of 0.5 MB" in capsys.readouterr().err


def test_small_bodies_are_json_that_reads_as_before(twin):
    service = Recorder([1.0, 2.0])

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0, 2.0]))
        await do(session.step([1.0, 2.0]))

    assert twin.run(service, operation).error is None
    assert json.loads(service.asked[1].content) == {"gradients": [1.0, 2.0], "step": 1, "return": "params"}
