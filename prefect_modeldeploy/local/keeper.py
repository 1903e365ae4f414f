"""Keeps one deployment as it should be: a task that compares what is wanted with what runs, whenever either changes.

RUNNING   so many replicas of the newest generation; older ones go when the new ones are ready
ZERO      none, until a request or `wake` comes
STOPPED   none, until `start`
DELETING  none, then forgotten
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.errors import DeploymentFailed, GatewayError
from prefect_modeldeploy.local.launcher import Launch, Launcher
from prefect_modeldeploy.local.logs import forget_logs, keep_few, replica_log
from prefect_modeldeploy.local.replicas import Cause, Ended, Phase, Replica, failure_file
from prefect_modeldeploy.local.spec import compute_threads, idle_seconds, options_of
from prefect_modeldeploy.local.store import DeploymentRecord, Mode, ReplicaRecord, Store, now

DRAIN_SECONDS = 30.0
"""A request in flight may take so long to end before its replica is stopped."""

MAX_FAILURES = 5
STABLE_SECONDS = 30.0
"""A replica that was ready for so long breaks a series of failures."""
BACKOFF_SECONDS, BACKOFF_LIMIT_SECONDS = 0.5, 30.0
RETRY_SECONDS = 1.0

SLOT_SECONDS = 10.0
"""A replica that takes longer to start lets others start beside it."""

_log = logging.getLogger(__name__)


class Traffic(Protocol):
    """What a keeper asks of the data plane."""

    def request_publish(self) -> None:
        """Tell the proxy soon that replicas came or went."""

    async def drain(self, upstream: str, server: str, timeout: float) -> None:
        """Send no new requests to a replica, and wait until those in flight are answered."""

    def sends_to(self, upstream: str, server: str) -> bool:
        """True while the proxy sends new requests to a replica."""

    async def activity(self, upstream: str) -> dict[str, Any]:
        """`idle_seconds`: since a request to this deployment ended; 0 while one is in flight; None if none yet."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all keepers share."""

    store: Store
    traffic: Traffic
    launcher: Launcher
    home: Path
    logs: Path
    start_slots: asyncio.Semaphore
    """So many replicas may start at the same time."""


@dataclass(slots=True)
class Troubles:
    """A series of failures, and when to try again."""

    count: int = 0
    retry_at: float = 0.0
    reason: str | None = None

    def add(self, ended: Ended) -> None:
        """The first restart is immediate, later ones wait longer each time, with jitter."""
        self.count, self.reason = self.count + 1, ended.reason
        delay = 0.0 if self.count == 1 else BACKOFF_SECONDS * 2 ** (self.count - 1)
        self.retry_at = time.monotonic() + min(delay, BACKOFF_LIMIT_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311


@dataclass(slots=True)
class Keeper:
    """One deployment. The commands write down what is wanted and return; the task makes it so."""

    record: DeploymentRecord
    services: Services
    replicas: dict[int, Replica] = field(default_factory=dict)
    troubles: Troubles = field(default_factory=Troubles)
    waking: bool = False
    """True from zero until it serves, and on until something else happens to it."""
    forgotten: bool = False
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _kick: asyncio.Event = field(default_factory=asyncio.Event)
    _change: asyncio.Event = field(default_factory=asyncio.Event)
    _last_wanted: float = field(default_factory=time.monotonic)
    _loop: "asyncio.Task[None] | None" = None

    # --- what others ask -------------------------------------------------------------------------------------------

    def start_keeping(self, adopted: list[ReplicaRecord]) -> None:
        """Take over what a former node left running, and begin."""
        for record in adopted:
            replica = self._replica(record)
            try:
                replica.attach()
            except ProcessLookupError:
                self.services.store.delete_replica(record)
            else:
                self.replicas[record.id] = replica
                self._spawn(self._see_through(replica, replica.go_on(self._start_timeout())))
        self._loop = asyncio.create_task(self._keep(), name=f"keeper of {self.record.id}")

    async def end_keeping(self) -> None:
        """Stop every replica and keep the desired state for the next node."""
        if self._loop is not None:
            self._loop.cancel()
        await asyncio.gather(*(replica.stop() for replica in self.replicas.values()))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def let_go(self) -> None:
        """Stop looking after the replicas, and let them live: for a node that could not start."""
        for task in (self._loop, *self._tasks):
            if task is not None:
                task.cancel()
        for replica in self.replicas.values():
            replica.release()

    def want(self, mode: Mode, replicas: int | None = None) -> None:
        """Change what is wanted. A failed deployment that is wanted to run is tried again."""
        if mode is Mode.RUNNING:
            self.waking = self.waking or self.record.mode is Mode.ZERO
            self.record.failure, self.troubles = None, Troubles()
            self._last_wanted = time.monotonic()
        else:
            self.waking = False
        self.record.mode, self.record.replicas = mode, replicas or self.record.replicas
        self.save()

    def change_spec(self, spec: DeploymentSpec, *, replace: bool) -> None:
        """Take a new spec; with `replace`, new replicas come first and the old ones go when those are ready."""
        self.record.spec = spec
        if replace:
            self.record.generation += 1
            self.record.failure, self.troubles = None, Troubles()
        self.save()

    def save(self) -> None:
        """Write down the desired state and look at it anew."""
        self.record.updated_at = now()
        self.services.store.save_deployment(self.record)
        self._changed()

    def ready_replicas(self) -> list[Replica]:
        """Those that could take requests."""
        return [replica for replica in self.replicas.values() if replica.phase is Phase.READY]

    def serving_replicas(self) -> list[Replica]:
        """Those that take requests, and that the proxy sends requests to."""
        return [replica for replica in self.ready_replicas() if self.gets_requests(replica)]

    def gets_requests(self, replica: Replica) -> bool:
        """True while the proxy sends new requests to it; for a moment that is so when it is to drain already."""
        return self.services.traffic.sends_to(self.record.id, replica.record.name)

    def routed_replicas(self) -> list[Replica]:
        """Those that the proxy knows: the ready ones, and those that still answer what was in flight."""
        return [replica for replica in self.replicas.values() if replica.routed]

    @property
    def wakes(self) -> bool:
        """True if a request that finds no replica is worth holding."""
        return self.record.mode in (Mode.RUNNING, Mode.ZERO) and self.record.failure is None

    async def wake_for_request(self) -> tuple[str, int]:
        """The address of a ready replica, as soon as there is one.

        Raises:
            DeploymentFailed: none will come. Clients get to read it, so the details stay in the deployment's status.
        """
        self._last_wanted = time.monotonic()
        if self.record.mode is Mode.ZERO and self.wakes:
            self.want(Mode.RUNNING)
        while not (ready := self.ready_replicas()):
            if not self.wakes:
                raise DeploymentFailed(
                    self.record.id, "its replicas cannot start" if self.record.failure else "stopped"
                )
            await self.next_change()
        return "127.0.0.1", random.choice(ready).record.port  # noqa: S311

    async def next_change(self) -> None:
        """Wait until something about this deployment changes."""
        await self._change.wait()

    # --- the task --------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while not self.forgotten:
            self._kick.clear()
            try:
                self._reconcile()
                async with asyncio.timeout(await self._seconds_to_next_look()):
                    await self._kick.wait()
            except TimeoutError:
                continue
            except Exception:  # a full disk, say: a deployment that nobody keeps would be worse than another try
                _log.exception("%s could not be looked after, next try in %g s", self.record.id, RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)

    def _reconcile(self) -> None:
        record = self.record
        staying = [replica for replica in self.replicas.values() if replica.phase is not Phase.DRAINING]
        current = [replica for replica in staying if replica.record.generation == record.generation]
        old = [replica for replica in staying if replica.record.generation != record.generation]
        wanted = record.replicas if record.mode is Mode.RUNNING else 0
        if record.failure is None and time.monotonic() >= self.troubles.retry_at:
            for _ in range(wanted - len(current)):
                self._launch()
        surplus = len(current) - wanted
        leaving = sorted(current, key=lambda replica: (replica.phase is Phase.READY, -replica.record.id))[
            : max(0, surplus)
        ]
        replaced = sum(replica.phase is Phase.READY for replica in current) >= wanted
        leaving += [replica for replica in old if replaced or replica.phase is Phase.STARTING]
        for replica in leaving:
            self._spawn(self._retire(replica))
        if record.mode is Mode.DELETING and not self.replicas:
            self.services.store.delete_deployment(record.id)
            forget_logs(self.services.logs, record.id)
            self.forgotten = True
            self._changed()

    async def _seconds_to_next_look(self) -> float | None:
        """Until the next restart or the next look for idleness; None: only when something changes."""
        if self.record.mode is not Mode.RUNNING:
            return None
        waits = []
        if self.troubles.retry_at > time.monotonic():
            waits.append(self.troubles.retry_at - time.monotonic())
        if (delay := idle_seconds(self.record.spec.autoscaling)) is not None and self.ready_replicas():
            idle = await self._idle_seconds()
            if self.record.mode is not Mode.RUNNING:  # somebody gave a command in the meantime, which counts
                return None
            if idle >= delay:
                self.want(Mode.ZERO)
                return 0.0
            waits.append(max(delay - idle, 0.05))
        return min(waits, default=None)

    async def _idle_seconds(self) -> float:
        """Seconds that nobody wanted it: no request, no command, no replica that has just become ready."""
        try:
            idle = (await self.services.traffic.activity(self.record.id))["idle_seconds"]
        except GatewayError:  # nobody knows while the proxy restarts: then it is not idle
            return 0.0
        since = max([self._last_wanted, *(replica.ready_since or 0.0 for replica in self.ready_replicas())])
        unwanted = time.monotonic() - since
        return unwanted if idle is None else min(unwanted, float(idle))

    def _launch(self) -> None:
        record = self.services.store.add_replica(self.record.id, self.record.generation)
        replica = self.replicas[record.id] = self._replica(record)
        launch = self._launch_of(replica)
        self._spawn(self._start(replica, launch))

    def _launch_of(self, replica: Replica) -> Launch:
        spec, options = self.record.spec, options_of(self.record.spec)
        settings = {
            "replica": replica.record.name,
            "model": spec.model,
            "version": spec.version,
            "source": spec.source,
            "concurrency": options.concurrency,
            "python_path": options.python_path,
            "failure_file": str(failure_file(replica.log)),
        }
        return Launch(
            python=options.python,
            settings=settings,
            env=spec.env,
            threads=compute_threads(spec.resources),
            working_directory=Path(options.working_directory or self.services.home),
            log=replica.log,
        )

    def _replica(self, record: ReplicaRecord) -> Replica:
        log = replica_log(self.services.logs, record.deployment, record.name)
        return Replica(record, self.services.store, log, self._changed)

    def _start_timeout(self) -> float:
        return options_of(self.record.spec).start_timeout_seconds

    async def _start(self, replica: Replica, launch: Launch) -> None:
        """Start a replica when there is a slot, hold the slot while it starts, and see it through to its end."""
        slot = asyncio.create_task(self.services.start_slots.acquire())
        await first_of(slot, replica.stop_asked.wait())
        life = asyncio.create_task(replica.run(launch, self.services.launcher, self._start_timeout()))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(SLOT_SECONDS):
                    await first_of(life, replica.settled.wait())
        finally:
            if slot.done():
                self.services.start_slots.release()
            slot.cancel()
        await first_of(life, replica.settled.wait())
        if replica.settled.is_set():
            self.services.launcher.learn(launch, replica.record.port)
        await self._see_through(replica, life)

    async def _see_through(self, replica: Replica, life: Awaitable[Ended]) -> None:
        try:
            ended = await life
        except Exception as error:  # whatever it is, the deployment must say so instead of hanging
            ended = Ended(Cause.BROKEN, f"{type(error).__name__}: {error}")
        self._conclude(replica, ended)

    def _conclude(self, replica: Replica, ended: Ended) -> None:
        record = self.record
        self.services.store.delete_replica(replica.record)
        del self.replicas[replica.record.id]
        keep_few(self.services.logs, record.id, {other.record.name for other in self.replicas.values()})
        expected = replica.phase is Phase.DRAINING or record.mode is not Mode.RUNNING
        if not expected and replica.record.generation == record.generation:
            if replica.ready_since is not None and time.monotonic() - replica.ready_since > STABLE_SECONDS:
                self.troubles = Troubles()
            self.troubles.add(ended)
            self.waking = False
            unproven = record.proven != record.generation
            if ended.cause is Cause.BROKEN or (ended.cause is Cause.SLOW and unproven):
                record.failure = ended.reason
            elif self.troubles.count >= MAX_FAILURES:
                record.failure = f"crashed {self.troubles.count} times in a row; the last time {ended.reason}"
            if record.failure is not None:
                self.save()
        self._changed()

    async def _retire(self, replica: Replica) -> None:
        """Drain, then stop: no request in flight is cut off."""
        serving = replica.phase is Phase.READY
        if not replica.drain():
            return
        if serving:
            await self.services.traffic.drain(self.record.id, replica.record.name, DRAIN_SECONDS)
            replica.routed = False
        await replica.stop()

    def _changed(self) -> None:
        if self.record.failure is None and self.record.proven != self.record.generation:
            ready = self.ready_replicas()
            if any(replica.record.generation == self.record.generation for replica in ready):
                self.record.proven = self.record.generation
                self.services.store.save_deployment(self.record)
        self._kick.set()
        self._change.set()
        self._change = asyncio.Event()
        self.services.traffic.request_publish()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def first_of(task: "asyncio.Task[Any]", other: Coroutine[Any, Any, Any]) -> None:
    """Wait until the task is done or the other thing has happened."""
    waiter = asyncio.create_task(other)
    try:
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
