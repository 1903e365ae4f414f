"""What is written down comes back the same."""

from pathlib import Path

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.launcher import FIRST_PORT, PORTS, Ports
from prefect_modeldeploy.local.logs import KEPT_FILES, MAX_FILE_BYTES, bound_size, deployment_log, keep_few, tail
from prefect_modeldeploy.local.store import DeploymentRecord, Mode, Store
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm


def test_deployments_and_endpoints_come_back_as_they_were(tmp_path: Path) -> None:
    spec = DeploymentSpec(
        name="a",
        model="m",
        source="x:y",
        autoscaling=Autoscaling(min_replicas=0),
        env={"A": "b"},
        options={"concurrency": 2},
    )
    record = DeploymentRecord(spec, Mode.ZERO, 2, generation=3, proven=2, failure="why", created_at="then")
    endpoint = Endpoint(name="e", arms=(EndpointArm(name="stable", upstream="a", weight=100),), epoch=4)
    store = Store(tmp_path / "db")
    store.save_deployment(record)
    store.save_endpoint(endpoint)
    store.close()
    again = Store(tmp_path / "db")
    assert again.deployments() == [record]
    assert again.endpoints() == [endpoint]
    again.delete_deployment("a")
    again.delete_endpoint("e")
    assert (again.deployments(), again.endpoints()) == ([], [])


def test_a_node_is_told_from_all_others_for_as_long_as_its_file_lives(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "db"), Store(tmp_path / "other")
    place = store.place()
    store.close()
    assert Store(tmp_path / "db").place() == place != other.place()


def test_numbers_of_replicas_are_never_used_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    first = store.add_replica("a", 1)
    first.port, first.pid, first.started, first.ready = 20001, 5, 1.5, True
    store.save_replica(first)
    assert store.replicas() == [first]
    store.delete_replica(first)
    assert store.add_replica("a", 1).id == first.id + 1


def test_a_port_is_not_given_again_soon() -> None:
    """A proxy that has not noticed a replica's death must not reach another model on its port."""
    remembered: list[int] = []
    ports = Ports(FIRST_PORT + PORTS - 3, remembered.append)
    seen = []
    for _ in range(6):
        with ports.listen() as listener:
            seen.append(listener.getsockname()[1])
    assert len(set(seen)) == 6
    assert remembered == seen
    assert min(seen) < FIRST_PORT + 10, "after the last port comes the first"


def test_a_port_that_somebody_has_is_passed_over() -> None:
    ports = Ports(FIRST_PORT, lambda _: None)
    with ports.listen() as taken:
        port = taken.getsockname()[1]
        with Ports(port - 1, lambda _: None).listen() as other:
            assert other.getsockname()[1] != port


def test_the_token_is_made_once(tmp_path: Path) -> None:
    first, second = Home(tmp_path).token(), Home(tmp_path).token()
    assert first == second
    assert len(first.get_secret_value()) >= 32
    assert [path.name for path in tmp_path.glob("token*")] == ["token"]


def test_the_logs_of_the_last_replicas_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for number in range(1, 13):
        (folder / f"r{number}.log").write_text(f"line of {number}\n")
    keep_few(tmp_path, "d", alive={"r1"})
    kept = sorted(int(path.stem[1:]) for path in folder.iterdir())
    assert kept == [1, *range(13 - KEPT_FILES, 13)]
    assert deployment_log(tmp_path, "d", 4) == "--- r11\nline of 11\n--- r12\nline of 12"


def test_a_log_stays_small_while_its_writer_appends(tmp_path: Path) -> None:
    log = tmp_path / "r1.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * (MAX_FILE_BYTES // 4 + 1))
        writer.write(b"last words\n")
        bound_size(log)
        writer.write(b"new\n")
    assert log.stat().st_size < MAX_FILE_BYTES / 8
    assert tail(log, lines=2) == "last words\nnew"
