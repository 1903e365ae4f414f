"""The command line: `modeldeploy --help`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from prefect_modeldeploy.errors import ModelDeployError

app = App(
    name="modeldeploy",
    help="Safe model deployments with Prefect: a local serving node, a gateway, rollouts.",
    version_flags=["--version"],
)
node = App(name="node", help="The serving node of this machine: model processes behind a proxy.")
app.command(node)

Home = Annotated[Path | None, Parameter(help="Directory of the node. Default: MODELDEPLOY_HOME, else ~/.modeldeploy.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object as the last line.")]

_errors = Console(stderr=True)


@node.command(name="start")
def node_start(
    *,
    home: Home = None,
    port: Annotated[int | None, Parameter(help="Port of the control API. Default: a free one.")] = None,
    gateway_port: Annotated[int | None, Parameter(help="Port that clients call. Default: a free one.")] = None,
    foreground: Annotated[bool, Parameter(help="Stay attached; Ctrl-C stops the node.")] = False,
    json: Json = False,
) -> None:
    """Start the node, or say where it runs already."""
    from prefect_modeldeploy.local.autostart import ensure_node
    from prefect_modeldeploy.local.node import run

    if foreground:
        sys.exit(run(home=home, port=port or 0, gateway_port=gateway_port or 0))
    info = asyncio.run(ensure_node(home, port=port, gateway_port=gateway_port))
    _tell(json, {"pid": info.pid, "control_url": info.control_url, "gateway_url": info.gateway_url})


@node.command(name="stop")
def node_stop(*, home: Home = None) -> None:
    """Stop the node, its proxy and its models; the next start brings all of it back."""
    from prefect_modeldeploy.local.autostart import stop_node

    stopped = asyncio.run(stop_node(home))
    Console().print("stopped" if stopped else "no node was running")


@node.command(name="status")
def node_status(*, home: Home = None, json: Json = False) -> None:
    """Show the node, its deployments and endpoints. Exit code 3 when no node runs."""
    from prefect_modeldeploy.local.autostart import node_overview

    overview = asyncio.run(node_overview(home))
    if overview is None:
        _errors.print("no node runs; start it with: modeldeploy node start")
        sys.exit(3)
    _tell(json, overview)


@app.command
def demo(*, json: Json = False) -> None:
    """Roll out a good and a broken version of a real model under live traffic on this machine; about a minute."""
    from prefect_modeldeploy.demo.story import tell

    sys.exit(tell(as_json=json))


@app.command(name="deployments-path")
def deployments_path() -> None:
    """Print the path of the packaged prefect.yaml, for `prefect deploy --prefect-file`."""
    package = Path(__file__).parent
    packaged, checkout = package / "prefect.yaml", package.parent / "flows" / "prefect.yaml"
    sys.stdout.write(f"{packaged if packaged.exists() else checkout}\n")


def _tell(as_json: bool, facts: dict[str, object]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    Console().print_json(data=facts)


def main() -> None:
    """Run the command line; errors of ours are one sentence and exit code 1."""
    try:
        app()
    except ModelDeployError as error:
        _errors.print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
