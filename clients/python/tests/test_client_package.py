"""The package as a whole: its names, its version, its silence, and that its README runs."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import random
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import httpx
import numpy as np
import pytest

import thalweg

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "thalweg"
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_all_is_sorted_and_complete():
    public = [
        name
        for name, value in vars(thalweg).items()
        if not isinstance(value, types.ModuleType) and (not name.startswith("_") or name == "__version__")
    ]
    assert thalweg.__all__ == sorted(public)


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == thalweg.__version__
    assert (project["name"], project["requires-python"]) == ("thalweg-client", ">=3.11")
    assert (SOURCE / "py.typed").exists()


def test_only_httpx_and_numpy_are_needed():
    imported = set()
    for file in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"httpx", "numpy", "orjson", "thalweg", "websockets"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.match(r"\w+", wanted)[0] for wanted in project["dependencies"]] == ["httpx", "numpy"]


@pytest.mark.parametrize("blocked", ["orjson", "nothing"])
def test_bodies_are_the_same_with_orjson_and_without(blocked):
    """The extra `fast` changes how long it takes, and nothing else."""
    code = f"""
import json, sys
sys.modules[{blocked!r}] = None
import numpy as np
from thalweg.requests import encode
from thalweg.text import read as _read
from thalweg.tensors import check
values = np.array([0.1, 1e-300, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, 1e22, 3.0])
single = np.array([0.1, 1 / 3], np.float32)
body = encode({{"step": 1, "loss": 0.25, "name": "\u03b1"}}, {{"gradients": check({{"w": values, "b": single}}, "")}})
read = _read(body.content)
assert read == json.loads(body.content), body
assert np.array_equal(np.array(read["gradients"]["w"]), values)
assert np.array_equal(np.array(read["gradients"]["b"], np.float32), single)
assert list(read) == ["gradients", "step", "loss", "name"]
print(repr(read))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'step': 1" in done.stdout


ORDER = (
    ["version", "errors", "text", "tensors", "safetensors", "forms", "requests", "retries", "pages", "progress"],
    ["files", "events", "catalogue", "sandbox", "steps", "sessions", "ring", "state", "creation", "batch", "pipeline"],
    ["methods", "transfer", "sending", "streaming", "client", "asynchronous", "__init__"],
    ["exchange", "training", "torch", "optax", "keras"],  # moving to those libraries
)


def test_imports_point_down():
    order = [name for row in ORDER for name in row]
    assert sorted(order) == sorted(file.stem for file in SOURCE.glob("*.py"))
    for file in SOURCE.glob("*.py"):
        found = re.findall(r"^from thalweg\.(\w+) import|^from thalweg import (.+)", file.read_text(), re.MULTILINE)
        names = {name.split(" as ")[0] for one, several in found for name in (one, *several.split(", ")) if name}
        assert all(order.index(name) < order.index(file.stem) for name in names), file.stem


def test_everything_public_is_documented():
    kinds = [value for value in vars(thalweg).values() if inspect.isclass(value)]
    for client in (thalweg.Client(), thalweg.AsyncClient()):
        kinds += [type(client.sessions), type(client.catalogue), type(client.sandbox)]
        if isinstance(client, thalweg.Client):
            client.close()
    for kind in kinds:
        assert kind.__doc__, kind
        for name, member in vars(kind).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{kind.__name__}.{name}"


def test_help_shows_arguments():
    """Methods made from functions carry the names, the arguments and the words of those."""
    with thalweg.Client() as client:
        method = client.sandbox.run
        assert list(inspect.signature(method).parameters)[:3] == ["function", "start", "optimizers"]
        assert method.__name__ == "run"
        assert "divergence" in method.__doc__
    assert inspect.iscoroutinefunction(thalweg.AsyncClient().sandbox.run)
    assert list(inspect.signature(type(client.sandbox).csv).parameters) == ["self", "function", "start", "settings"]


def test_nothing_is_printed(make, capfd):
    """Not in any way: a fresh interpreter, all warnings shown, lost answers, errors, a client that was never closed."""
    program = """
import logging, httpx, thalweg
def service(request):
    if request.method == "GET":
        raise httpx.ReadError("cut")
    return httpx.Response(503, headers={"retry-after": "0"}) if "functions" in str(request.url) else httpx.Response(422)
client = thalweg.Client(transport=httpx.MockTransport(service), sleep=lambda _: None)
for call in (lambda: client.sessions.get("s"), lambda: client.sessions.create("adam", [1.0]),
             lambda: client.catalogue.evaluate("f", [[1.0]]), lambda: client.sessions.create("adam", [float("nan")])):
    try:
        call()
    except thalweg.ThalwegError as error:
        str(error)
thalweg.Client(), thalweg.AsyncClient()
assert not logging.getLogger("thalweg").handlers
"""
    done = subprocess.run([sys.executable, "-W", "default", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    with thalweg.Client(transport=httpx.MockTransport(make.descent([None, "after"]))) as client:
        session = client.sessions.create("sgd", [1.0])
        session.step([1.0])
    assert capfd.readouterr() == ("", "")


def test_random_numbers_of_the_program_are_left_alone(make):
    def draws(use):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  (this is what is left alone)
        if use:
            service = make.descent(["after", "after", None, "after"])
            with thalweg.Client(transport=httpx.MockTransport(service), sleep=lambda _: None) as client:
                client.sessions.create("sgd", [1.0]).step([1.0])
        return random.random(), np.random.random()  # noqa: NPY002

    assert draws(use=True) == draws(use=False)


def test_the_first_example_runs(make, monkeypatch, capsys):
    transport = httpx.MockTransport(make.descent())
    original = thalweg.Client

    monkeypatch.setattr(thalweg, "Client", lambda url: original(url, transport=transport))
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})
    assert "100 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_use_names_that_exist(example):
    tree = compile(example, "README.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with thalweg.Client() as client:
        known = {"thalweg": thalweg, "client": client}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for module in node.names:
                    if module.name.startswith("thalweg."):
                        importlib.import_module(module.name)
            if isinstance(node, ast.Attribute):
                try:
                    owner = eval(ast.unparse(node.value), {"__builtins__": {}}, known)
                except (NameError, SyntaxError, TypeError, AttributeError):
                    continue
                with contextlib.suppress(thalweg.errors.Misuse):  # it is there, and needs a library that is not
                    assert hasattr(owner, node.attr), ast.unparse(node)
