"""What a replica answers. Each test speaks to a real replica process, without a node."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import pytest
import pytest_asyncio
from sklearn.linear_model import LogisticRegression

from prefect_modeldeploy.local.launcher import PROGRAMS
from prefect_modeldeploy.local.programs.modeldeploy_replica.server import LOAD_FAILED
from tests.local.conftest import MODELS

INFER = "/v2/models/toy/infer"

Start = Callable[..., httpx.AsyncClient]


@pytest.fixture(scope="module")
def spawn() -> Iterator[Callable[..., tuple["subprocess.Popen[bytes]", int]]]:
    children = []

    def start(source: str, **settings: Any) -> tuple["subprocess.Popen[bytes]", int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            child = subprocess.Popen(
                [sys.executable, str(PROGRAMS), "replica", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(listener.fileno(),),
            )
            port = listener.getsockname()[1]
        line = {"replica": "r1", "model": "toy", "version": "3", "source": source, "python_path": [str(MODELS)]}
        line |= settings
        assert child.stdin is not None
        child.stdin.write(json.dumps(line).encode() + b"\n")
        child.stdin.close()
        children.append(child)
        return child, port

    yield start
    for child in children:
        child.kill()
        child.wait()


@pytest_asyncio.fixture(scope="module")
async def replica(spawn: Callable[..., Any]) -> AsyncIterator[Start]:
    """`replica(source)` returns a client; the kernel holds the first request until the replica is ready.

    Tests that ask for the same one share a process.
    """
    clients: dict[str, httpx.AsyncClient] = {}

    def start(source: str, **settings: Any) -> httpx.AsyncClient:
        key = f"{source} {settings}"
        if key not in clients:
            _, port = spawn(source, **settings)
            clients[key] = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        return clients[key]

    yield start
    for client in clients.values():
        await client.aclose()


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "classifier.joblib"
    joblib.dump(LogisticRegression().fit([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 1, 1]), file)
    return file


def tensor(data: list[Any], shape: list[int], datatype: str = "FP64", name: str = "x") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


async def test_health_and_metadata_follow_the_open_inference_protocol(replica: Start) -> None:
    client = replica("toy_models:echo")
    answers = {
        path: (await client.get(path)).json()
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready", "/v2/models/toy/versions/3", "/v2")
    }
    assert answers["/v2/health/live"] == {"live": True}
    assert answers["/v2/health/ready"]["ready"] is True
    assert answers["/v2/models/toy/ready"] == {"name": "toy", "ready": True}
    assert answers["/v2/models/toy/versions/3"] == {
        "name": "toy",
        "versions": ["3"],
        "platform": "python",
        "inputs": [],
        "outputs": [],
    }
    assert answers["/v2"]["name"] == "modeldeploy"


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/toy/versions/4", "/v2/models/toy/other", "/other"])
async def test_what_is_not_served_is_404(replica: Start, path: str) -> None:
    answer = await replica("toy_models:echo").get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "NotFound")


async def test_a_wrong_method_is_405(replica: Start) -> None:
    assert (await replica("toy_models:echo").get("/predict")).status_code == 405


async def test_a_model_name_may_hold_a_slash(replica: Start) -> None:
    client = replica("toy_models:echo", model="team/toy")
    assert (await client.get("/v2/models/team/toy/ready")).json() == {"name": "team/toy", "ready": True}


async def test_a_callable_gets_the_parsed_body_and_answers_any_json(replica: Start) -> None:
    client = replica("toy_models:echo")
    for value in (None, 3, "text", [1, {"a": [None, True]}], {"x": 1.5}):
        assert (await client.post("/predict", content=json.dumps(value))).json() == value


async def test_a_callable_gets_tensors_by_name(replica: Start) -> None:
    body = {
        "id": "7",
        "inputs": [
            tensor([1, 2, 3, 4], [2, 2], "INT64", "a"),
            tensor([[0.5]], [1, 1], "FP32", "b"),
            tensor(["x", "y"], [2], "BYTES", "c"),
        ],
    }
    answer = (await replica("toy_models:echo").post("/v2/models/toy/versions/3/infer", json=body)).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "toy", "3")
    assert answer["outputs"] == [
        tensor([1, 2, 3, 4], [2, 2], "INT64", "a"),
        tensor([0.5], [1, 1], "FP32", "b"),
        tensor(["x", "y"], [2], "BYTES", "c"),
    ]


async def test_a_joblib_model_speaks_all_three_dialects(replica: Start, classifier: Path) -> None:
    client = replica(str(classifier))
    body = {"inputs": [tensor([0, 1, 1, 0], [2, 2])]}
    inferred = (await client.post("/v2/models/toy/infer", json=body)).json()
    assert inferred["outputs"] == [tensor([0, 1], [2], "INT64", "predict")]
    both = {**body, "outputs": [{"name": "predict_proba"}, {"name": "predict"}]}
    outputs = (await client.post("/v2/models/toy/infer", json=both)).json()["outputs"]
    assert [(o["name"], o["shape"]) for o in outputs] == [("predict_proba", [2, 2]), ("predict", [2])]
    rows, expected = [[0, 1], [1, 0]], {"predictions": [0, 1]}
    assert (await client.post("/predict", json=rows)).json() == expected
    assert (await client.post("/predict", json={"instances": rows})).json() == expected
    frames = (
        {"inputs": rows},
        {"dataframe_split": {"columns": ["a", "b"], "data": rows}},
        {"dataframe_records": [{"a": 0, "b": 1}, {"b": 0, "a": 1}]},
    )
    for frame in frames:
        assert (await client.post("/invocations", json=frame)).json() == expected


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/predict", b"{", "not JSON"),
        (INFER, b"[]", "`inputs`"),
        (INFER, b'{"inputs": [{"name": "x"}]}', "datatype"),
        (
            "/v2/models/toy/infer",
            b'{"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1]}]}',
            "shape",
        ),
        (
            "/v2/models/toy/infer",
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": ["a"]}]}',
            "FP32",
        ),
        ("/invocations", b'{"rows": []}', "instances"),
        ("/invocations", b'{"dataframe_records": [{"a": 1}, {}]}', "data frame"),
    ],
)
async def test_what_cannot_be_read_is_400_and_says_why(replica: Start, path: str, body: bytes, said: str) -> None:
    answer = await replica("toy_models:echo").post(path, content=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "BadInput")
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("failing", "ValueError: this model never works"),
        ("leaving", "RuntimeError: the model raised SystemExit(7)"),
        ("stopping", "RuntimeError: the model raised StopIteration()"),
        ("not_json", "which is not JSON"),
    ],
)
async def test_an_error_in_the_model_is_500_and_the_replica_lives_on(replica: Start, function: str, error: str) -> None:
    client = replica(f"toy_models:{function}")
    for _ in range(2):
        answer = await client.post("/predict", json=1)
        assert answer.status_code == 500
        assert error in answer.json()["error"]


async def test_nan_is_an_error_because_json_has_none(replica: Start) -> None:
    answer = await replica("toy_models:echo").post("/predict", content=b"NaN")
    assert (answer.status_code, answer.json()["type"]) == (500, "ValueError")


async def test_wrong_features_are_a_failure_of_the_model_not_of_the_client(replica: Start, classifier: Path) -> None:
    """A canary that expects other features than production sends must be found out, so it is 500."""
    answer = await replica(str(classifier)).post("/predict", json=[[1, 2, 3]])
    assert answer.status_code == 500
    assert "features" in answer.json()["error"]


@pytest.mark.parametrize("function", ["blocking", "slowly"])
async def test_health_answers_during_a_slow_predict(replica: Start, function: str) -> None:
    client = replica(f"toy_models:{function}", concurrency=1)
    await client.get("/v2/health/ready")
    running = asyncio.create_task(client.post("/predict", json={"seconds": 1.0}))
    await asyncio.sleep(0.1)
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert not running.done()
    assert (await running).status_code == 200


async def test_a_slow_request_in_flight_is_answered_after_sigterm(spawn: Callable[..., Any]) -> None:
    child, port = spawn("toy_models:blocking")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        await client.get("/v2/health/ready")
        running = asyncio.create_task(client.post("/predict", json={"seconds": 0.7}))
        await asyncio.sleep(0.2)
        child.terminate()
        assert (await running).json() == child.pid
    await asyncio.to_thread(child.wait, 10)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/nowhere/model.joblib", "no such file: /nowhere/model.joblib"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("toy_models:nothing", "has no 'nothing'"),
        ("toy_models:not_callable", "not a callable"),
        ("raises_on_import:f", "RuntimeError: the weights are corrupt"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    spawn: Callable[..., Any], tmp_path: Path, source: str, said: str
) -> None:
    failure = tmp_path / "failure"
    child, _ = spawn(source, failure_file=str(failure))
    assert child.wait(20) == LOAD_FAILED
    assert said in json.loads(failure.read_text())["reason"]


def test_a_replica_whose_node_died_before_it_was_written_down_ends_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        read_end, write_end = os.pipe()
        child = subprocess.Popen(
            [sys.executable, str(PROGRAMS), "replica", str(listener.fileno())],
            stdin=read_end,
            pass_fds=(listener.fileno(),),
        )
        os.close(read_end)
    os.close(write_end)
    assert child.wait(20) == 0


async def test_the_replica_imports_nothing_of_this_package(replica: Start) -> None:
    modules = (await replica("toy_models:echo").get("/-/modules")).json()["modules"]
    assert [name for name in modules if name.startswith("prefect")] == []


def test_the_programs_folder_does_not_shadow_the_models_modules(spawn: Callable[..., Any], tmp_path: Path) -> None:
    child, _ = spawn("keeper:Keeper", failure_file=str(tmp_path / "failure"))
    assert child.wait(20) == LOAD_FAILED
    assert "no module 'keeper'" in (tmp_path / "failure").read_text()
