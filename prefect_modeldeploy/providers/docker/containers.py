"""One container of ours: its labels are the whole state of a deployment, so that nothing is lost with our process."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Self

from pydantic import SecretStr

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.providers.docker.engine import Inspected
from prefect_modeldeploy.providers.docker.spec import NAMESPACE, Options, limits_of, options_of, same

DEPLOYMENT, MODEL = f"{NAMESPACE}deployment", f"{NAMESPACE}model"
_VERSION, _ENVIRONMENT = f"{NAMESPACE}version", f"{NAMESPACE}environment"
_GENERATION, _REPLICA = f"{NAMESPACE}generation", f"{NAMESPACE}replica"
_SPEC, _ORIGIN, _CREATED = f"{NAMESPACE}spec", f"{NAMESPACE}origin", f"{NAMESPACE}created"
_JOINS = f"{NAMESPACE}joins"

_CRASHES = 3
"""A container that keeps crashing is given up after so many restarts (Docker goes on, ever more slowly)."""


class State(Enum):
    """What a container is doing."""

    PENDING = "never started"
    STARTING = "starting"
    JOINING = "being added to others"
    RECOVERING = "starting again after a crash"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"
    STOPPING = "being removed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Birth:
    """What all the containers of a deployment know of its beginning."""

    origin: str
    """Digest of the spec that it was created with: the same again is no conflict, whatever was updated since."""
    created: str

    @classmethod
    def now(cls, origin: str) -> Self:
        """A deployment that begins."""
        return cls(origin, datetime.now(UTC).isoformat())


@dataclass(frozen=True, slots=True)
class Container:
    """One replica. `healthy` is what its health check said: None where nobody asked."""

    shown: Inspected
    healthy: bool | None = None

    @property
    def id(self) -> str:
        """Docker's own."""
        return str(self.shown["Id"])

    @property
    def name(self) -> str:
        """Unique on its host."""
        return str(self.shown["Name"]).removeprefix("/")

    @property
    def labels(self) -> Mapping[str, str]:
        """All of them."""
        return self.shown["Config"]["Labels"] or {}

    @property
    def generation(self) -> int:
        """Which update of the deployment made it; 1 is its creation."""
        return int(self.labels[_GENERATION])

    @property
    def replica(self) -> int:
        """Its number in its generation."""
        return int(self.labels[_REPLICA])

    @property
    def spec(self) -> DeploymentSpec:
        """What it was made from."""
        return DeploymentSpec.model_validate_json(self.labels[_SPEC])

    @property
    def options(self) -> Options:
        """The spec's."""
        return options_of(self.spec)

    @property
    def birth(self) -> Birth:
        """The deployment's."""
        return Birth(self.labels[_ORIGIN], self.labels[_CREATED])

    @property
    def image(self) -> str:
        """Id of the image. The name of an image can mean another one tomorrow."""
        return str(self.shown["Image"])

    @property
    def port(self) -> int:
        """Port on the Docker host. It is the same for all its life, also after a crash or a reboot."""
        return next(iter(ports_of(self.shown)))

    @property
    def was_started(self) -> bool:
        """Whether it ever ran."""
        return not self.shown["State"]["StartedAt"].startswith("0001")

    @property
    def runs(self) -> bool:
        """Whether it can be asked for its health."""
        return bool(self.shown["State"]["Status"] == "running")

    @property
    def word(self) -> str:
        """Docker's own word for its state."""
        return str(self.shown["State"]["Status"])

    @property
    def state(self) -> State:
        """See the table in `views.py`."""
        state = self.shown["State"]
        match self.word:
            case "running" if self.healthy:
                return State.READY
            case "running" if self._running_seconds() > self.options.start_seconds:
                return State.FAILED
            case "running" | "restarting" if self.shown["RestartCount"] >= _CRASHES:
                return State.FAILED
            case "running" | "restarting" if self.shown["RestartCount"]:
                return State.RECOVERING
            case "running" | "restarting":
                return State.JOINING if self.joins else State.STARTING
            case "created" | "exited" if state["Error"]:
                return State.FAILED
            case "created":
                return State.JOINING if self.joins else State.PENDING
            case "exited":
                return State.STOPPED
            case "dead":
                return State.FAILED
            case "removing":
                return State.STOPPING
        return State.UNKNOWN

    @property
    def problem(self) -> str:
        """What is wrong with it, in a sentence without an end."""
        state = self.shown["State"]
        if state["Error"]:
            return f"{self.name} cannot start: {state['Error']}"
        if self.word == "running" and self.shown["RestartCount"] < _CRASHES:
            return f"{self.name} runs, but its health check {self.options.health_path or 'of the image'} fails"
        memory = ", out of memory" if state["OOMKilled"] else ""
        code = "" if self.word == "running" else f", exit code {state['ExitCode']}"  # forgotten at the next try
        return f"{self.name} crashed {self.shown['RestartCount']} times{code}{memory}"

    @property
    def joins(self) -> bool:
        """Whether it was added to others that were there."""
        return _JOINS in self.labels

    def _running_seconds(self) -> float:
        started = datetime.fromisoformat(re.sub(r"\.\d+Z$|Z$", "+00:00", self.shown["State"]["StartedAt"]))
        return (datetime.now(UTC) - started).total_seconds()


def ports_of(shown: Inspected) -> set[int]:
    """The ports of the Docker host that a container has, or will have when it is started."""
    bindings = (shown["HostConfig"].get("PortBindings") or {}).values()
    return {int(one["HostPort"]) for several in bindings for one in several or () if one.get("HostPort")}


def is_made_from(shown: Inspected, spec: DeploymentSpec) -> bool:
    """Whether it is a container of ours that was made from this spec."""
    label = (shown["Config"]["Labels"] or {}).get(_SPEC)
    return label is not None and same(DeploymentSpec.model_validate_json(label), spec)


def name_of(deployment: str, generation: int, replica: int) -> str:
    """A container's name: the lock of everything that must not be done twice."""
    return f"modeldeploy-{deployment}-g{generation}-r{replica}"


def settings_of(
    spec: DeploymentSpec,
    birth: Birth,
    generation: int,
    replica: int,
    *,
    bind: tuple[str, int],
    joins: bool,
    secret_env: Mapping[str, SecretStr],
) -> dict[str, Any]:
    """What docker-py is told about a container. Secrets are in its environment only.

    One that `joins` others does not make their deployment unready while it starts.
    """
    options = options_of(spec)
    labels = {
        **options.labels,
        DEPLOYMENT: spec.name,
        MODEL: spec.model,
        _VERSION: spec.version,
        _ENVIRONMENT: spec.environment,
        _GENERATION: str(generation),
        _REPLICA: str(replica),
        _SPEC: spec.model_dump_json(),
        _ORIGIN: birth.origin,
        _CREATED: birth.created,
        **({_JOINS: "yes"} if joins else {}),
    }
    return {
        "command": list(options.command) if options.command is not None else None,
        "environment": {**spec.env, **{name: value.get_secret_value() for name, value in secret_env.items()}},
        "labels": labels,
        "ports": {f"{options.port}/tcp": bind},
        "restart_policy": {"Name": "unless-stopped"},
        **limits_of(spec.resources),
    }


def generations(containers: Iterable[Container]) -> dict[int, list[Container]]:
    """The containers of one deployment by generation, the oldest first, each by number."""
    found: dict[int, list[Container]] = {}
    for container in sorted(containers, key=lambda one: (one.generation, one.replica)):
        found.setdefault(container.generation, []).append(container)
    return found


def serving(containers: Iterable[Container]) -> list[Container]:
    """The generation that takes the traffic: the newest that is ready as a whole, else the oldest."""
    found = list(generations(containers).values())
    whole = [several for several in found if all(one.state is State.READY for one in several)]
    return whole[-1] if whole else found[0]
