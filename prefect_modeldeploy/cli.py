"""The command line: `modeldeploy --help`."""

import asyncio
import json as json_text
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_modeldeploy import __version__
from prefect_modeldeploy.errors import InvalidInput, ModelDeployError, NodeError
from prefect_modeldeploy.rollout.record import Decision, Order

if TYPE_CHECKING:
    from prefect_modeldeploy import RolloutPreview, RolloutRecord

M = TypeVar("M", bound=BaseModel)

app = App(
    name="modeldeploy",
    help="Safe model deployments with Prefect: a local serving node, a gateway, rollouts.",
    version=__version__,
    version_flags=["--version"],
)
node = App(name="node", help="The serving node of this machine: model processes behind a proxy.")
app.command(node)
sandbox = App(name="sandbox", help="Emulators of the hosted serving APIs, for tests without an account.")
app.command(sandbox)

Home = Annotated[Path | None, Parameter(help="Directory of the node. Default: MODELDEPLOY_HOME, else ~/.modeldeploy.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object as the last line.")]

_out, _errors = Console(), Console(stderr=True)


@node.command(name="start")
def node_start(
    *,
    home: Home = None,
    port: Annotated[int | None, Parameter(help="Port of the control API. Default: as before, else a free one.")] = None,
    gateway_port: Annotated[int | None, Parameter(help="Port that clients call. Default: likewise.")] = None,
    remote: Annotated[
        str | None,
        Parameter(
            help="ADDRESS:PORT of the control API for other machines, over TLS. Default: as before; none: no more."
        ),
    ] = None,
    certificate: Annotated[
        Path | None, Parameter(help="PEM file with certificate and private key, for --remote. Default: as before.")
    ] = None,
    foreground: Annotated[bool, Parameter(help="Stay attached; Ctrl-C stops the node.")] = False,
    json: Json = False,
) -> None:
    """Start the node, or say where it runs already."""
    from prefect_modeldeploy.local.autostart import ensure_node
    from prefect_modeldeploy.local.node import run
    from prefect_modeldeploy.local.remote import NOWHERE

    if foreground:
        own = str(certificate.absolute()) if certificate else None
        sys.exit(run(home=home, port=port or 0, gateway_port=gateway_port or 0, remote=remote, certificate=own))
    starting = ensure_node(home, port=port, gateway_port=gateway_port, remote=remote, certificate=certificate)
    info = asyncio.run(starting)
    if remote and info.remote_url != (None if remote == NOWHERE else f"https://{remote.lower()}"):
        raise NodeError(f"remote={remote!r}: node {info.pid} runs already, without it; stop it first")
    if json:
        _print_json(asdict(info))
        return
    also = f" and {info.remote_url}" if info.remote_url else ""
    _out.print(f"node {info.pid}: control {info.control_url}{also}, gateway {info.gateway_url}", highlight=False)


@node.command(name="stop")
def node_stop(*, home: Home = None) -> None:
    """Stop the node, its proxy and its models; the next start brings all of it back."""
    from prefect_modeldeploy.local.autostart import stop_node

    stopped = asyncio.run(stop_node(home))
    _out.print("stopped" if stopped else "no node was running")


@node.command(name="status")
def node_status(*, home: Home = None, json: Json = False) -> None:
    """Show the node, its deployments and endpoints. Exit code 3 when no node runs."""
    from prefect_modeldeploy.local.autostart import node_overview

    overview = asyncio.run(node_overview(home))
    if overview is None:
        _errors.print("no node runs; start it with: modeldeploy node start")
        sys.exit(3)
    _print_json(overview) if json else _print_overview(overview)


@sandbox.command(name="start")
def sandbox_start(
    *,
    port: Annotated[
        int, Parameter(help="Port of the control API; the vendors get the ports after it. 0: free ones.")
    ] = 0,
    providers: Annotated[str, Parameter(help="Names with commas between, such as baseten,scale. Default: all.")] = "",
    ready_file: Annotated[Path | None, Parameter(help="Gets one JSON object when all of them are ready.")] = None,
    speed: Annotated[float, Parameter(help="How fast time passes for deployments; 0: everything is instant.")] = 1.0,
    state: Annotated[Path | None, Parameter(help="File that keeps the state over restarts. Default: memory.")] = None,
) -> None:
    """Run the emulators in the foreground, on loopback; Ctrl-C stops them."""
    from prefect_modeldeploy.sandbox.server import run

    names = [name.strip() for name in providers.split(",") if name.strip()] or None
    sys.exit(run(port, names, ready_file, speed, state))


@app.command
def demo(*, json: Json = False) -> None:
    """Roll out a good and a broken version of a real model under live traffic on this machine; about two minutes."""
    from prefect_modeldeploy.demo.story import tell

    sys.exit(tell(as_json=json))


@app.command
def plan(
    target: Annotated[str, Parameter(help="Name of a saved Deployment Target block.")],
    candidate: Annotated[str, Parameter(help="Id of a deployment, or a JSON file with the spec of one to create.")],
    *,
    plan: Annotated[Path | None, Parameter(help="JSON file with the CanaryPlan. Default: the flow's own.")] = None,
    json: Json = False,
) -> None:
    """Dry run of a canary rollout: steps, times, cost, changes. It changes nothing. Exit code 3: it would not begin."""
    from prefect_modeldeploy import CanaryPlan, DeploymentSpec, plan_rollout

    what = _from_file(DeploymentSpec, Path(candidate)) if candidate.endswith(".json") else candidate
    preview = asyncio.run(plan_rollout(target, what, _from_file(CanaryPlan, plan) if plan else CanaryPlan()))
    if json:
        sys.stdout.write(preview.model_dump_json() + "\n")
    else:
        _print_preview(preview)
    sys.exit(0 if preview.begins else 3)


@app.command
def halt(
    why: Annotated[str, Parameter(help="The reason, for those whose rollouts turn back.")],
) -> None:
    """Press the red button: turn every rollout back, on every machine, and let no new one begin."""
    from prefect_modeldeploy.tasks import _red_button

    asyncio.run(_red_button.press(why))
    _out.print("halted; every rollout turns back within seconds. To let them begin again: modeldeploy allow")


@app.command
def allow() -> None:
    """Release the red button: rollouts may begin again."""
    from prefect_modeldeploy.tasks import _red_button

    released = asyncio.run(_red_button.release())
    _out.print("rollouts may begin again" if released else "nothing was halted")


@app.command
def approve(
    endpoint: Annotated[str, Parameter(help="Name of the endpoint whose rollout waits.")],
    *,
    decision: Annotated[
        Decision,
        Parameter(
            help="promote: go on. promote_fully: leave out all further steps. skip: leave out the next step, or the "
            "bake. extend: watch for one step's time more, then ask again. roll_back: all traffic back to stable."
        ),
    ] = "promote",
    comment: Annotated[str, Parameter(help="Why; kept in the record.")] = "",
    json: Json = False,
) -> None:
    """Answer a rollout that waits for a person."""
    from prefect_modeldeploy import orders

    record = asyncio.run(orders.answer(endpoint, decision, comment))
    if json:
        _print_json(_named(record) | {"decision": decision, "comment": comment})
        return
    _say(f"{endpoint}: {decision.replace('_', ' ')}, told to the rollout of {record.candidate}")


@app.command
def order(
    endpoint: Annotated[str, Parameter(help="Name of the endpoint whose rollout is meant.")],
    what: Annotated[
        Order,
        Parameter(
            help="abort: all traffic back to stable. skip: leave out the rest of this step. promote-fully: leave out "
            "all further steps; the bake is still watched."
        ),
    ],
    *,
    why: Annotated[str, Parameter(help="The reason; kept in the record.")] = "",
    json: Json = False,
) -> None:
    """Tell a rollout that runs to turn back, or to go on faster."""
    from prefect_modeldeploy import orders

    record = asyncio.run(orders.order(endpoint, what, why))
    if json:
        _print_json(_named(record) | {"order": what, "why": why})
        return
    _say(f"{endpoint}: {what} is ordered for the rollout of {record.candidate}; see `modeldeploy rollout {endpoint}`")


@app.command(name="rollout")
def show_rollout(
    endpoint: Annotated[str, Parameter(help="Name of the endpoint.")],
    *,
    json: Json = False,
) -> None:
    """Show where the latest rollout of an endpoint stands, who started it and why. Exit code 3 when there was none."""
    from prefect_modeldeploy.tasks import _journal

    record = asyncio.run(_journal.latest(endpoint))
    if record is None:
        _complain(f"{endpoint} has had no rollout")
        sys.exit(3)
    if json:
        sys.stdout.write(record.saved() + "\n")
        return
    started = f"{record.started_at:%Y-%m-%d %H:%M:%S} UTC by {record.who.name}"
    rows = {
        "candidate": f"{record.canary}, over {record.stable or 'nothing'}",
        "stands at": f"{record.phase}, {record.weight:g} % of the requests",
        "started": started + (f": {record.why}" if record.why else ""),
        "outcome": record.outcome or "open",
        "reason": record.reason,
        "report": record.report or "",
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    _out.print(table)


@app.command(name="deployments-path")
def deployments_path(
    *,
    docker: Annotated[bool, Parameter(help="The one for a Docker work pool.", negative=())] = False,
) -> None:
    """Print the path of the packaged prefect.yaml, for `prefect deploy --prefect-file`."""
    package = Path(__file__).parent
    directory = package if (package / "prefect.yaml").exists() else package.parent / "flows"
    sys.stdout.write(f"{(directory / 'docker' if docker else directory) / 'prefect.yaml'}\n")


def _print_overview(overview: dict[str, Any]) -> None:
    _out.print(f"node {overview['pid']} in {overview['home']}", highlight=False, soft_wrap=True)
    _out.print(f"control {overview['control_url']}, gateway {overview['gateway_url']}", highlight=False, soft_wrap=True)
    deployments = Table("deployment", "model", "version", "status", "ready", "reason")
    for each in overview["deployments"]:
        replicas = f"{each['replicas']['ready']} of {each['replicas']['running']}"
        row = (each["id"], each["model_id"], each["version"], each["status"], replicas, each["reason"] or "")
        deployments.add_row(*row)
    endpoints = Table("endpoint", "arms", "address")
    for each in overview["endpoints"]:
        arms = ", ".join(f"{arm['name']} {arm['weight']:g} %: {arm['upstream']}" for arm in each["arms"])
        endpoints.add_row(each["name"], arms, f"{overview['gateway_url']}/{each['name']}")
    for table in (deployments, endpoints):
        if table.row_count:
            _out.print(table)


def _print_preview(preview: "RolloutPreview") -> None:
    from prefect_modeldeploy.report.preview import headline, preview_sections

    _out.print(headline(preview), style="bold", markup=False, highlight=False, soft_wrap=True)
    for section in preview_sections(preview):
        _out.print(f"\n{section.title}", style="bold")
        if section.rows:
            table = Table(*section.rows[0], show_header=section.header, box=None)
            for row in section.rows:
                table.add_row(*(Text(value) for value in row.values()))
            _out.print(table)
        for note in section.notes:
            _out.print(f"- {note}", markup=False, highlight=False)


def _from_file(model: type[M], path: Path) -> M:
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput("file", str(path), f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or model.__name__}: {each['msg']}" for each in error.errors()
        )
        raise InvalidInput("file", str(path), wrong) from error


def _print_json(facts: object) -> None:
    sys.stdout.write(json_text.dumps(facts) + "\n")


def _named(record: "RolloutRecord") -> dict[str, str]:
    return {"endpoint": record.endpoint, "rollout": record.id, "candidate": record.candidate}


def _say(line: str) -> None:
    _out.print(line, markup=False, highlight=False, soft_wrap=True)


def _complain(line: str) -> None:
    _errors.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)


def main() -> None:
    """Run the command line; errors of ours are one sentence and exit code 1, a command that cannot be read 2."""
    try:
        app(sys.argv[1:], print_error=False, exit_on_error=False)
    except ModelDeployError as error:
        _complain(str(error))
        sys.exit(1)
    except CycloptsError as error:
        _complain(f"{error} See --help.")
        sys.exit(2)
    except Exception as error:
        from httpx import HTTPError  # of Prefect's client; providers' are errors of ours

        if not isinstance(error, HTTPError):
            raise
        _complain(f"Prefect's server does not answer as it should ({error}); PREFECT_API_URL says which one is asked")
        sys.exit(1)


if __name__ == "__main__":
    main()
