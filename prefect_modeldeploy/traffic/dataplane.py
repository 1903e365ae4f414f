"""The whole desired state of the gateway, and the rules that it must obey."""

from collections import Counter
from dataclasses import dataclass

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.traffic.endpoint import Endpoint, Upstream


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Every endpoint and every upstream that shall exist; what is not named here shall not.

    Raises:
        InvalidInput: Two have the same name, an arm names an upstream that does not exist, or an upstream asks for
            something that the proxy cannot do.
    """

    endpoints: tuple[Endpoint, ...] = ()
    upstreams: tuple[Upstream, ...] = ()

    def __post_init__(self) -> None:
        _unique("endpoints", [endpoint.name for endpoint in self.endpoints])
        _unique("upstreams", [upstream.name for upstream in self.upstreams])
        known = {upstream.name for upstream in self.upstreams}
        for endpoint in self.endpoints:
            for arm in endpoint.arms:
                if arm.upstream not in known:
                    field = f"endpoints.{endpoint.name}.arms.{arm.name}.upstream"
                    raise InvalidInput(field, arm.upstream, f"no such upstream; there are {sorted(known)}")
        for upstream in self.upstreams:
            _unique(f"upstreams.{upstream.name}.servers", [server.name for server in upstream.servers])
            if upstream.wakes and upstream.tls:
                hint = "the activator speaks plain HTTP to local replicas; use one of wakes and tls"
                raise InvalidInput(f"upstreams.{upstream.name}.wakes", True, hint)


def _unique(field: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidInput(field, twice, "every name must be unique")
