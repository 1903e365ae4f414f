"""Measurements from elsewhere than the gateway: what both arms experienced, by the systems that watch them already.

    base.py          MetricSource, and the gateway as one
    counters.py      counters become windows: pure
    prometheus.py    PrometheusMetrics
    baseten.py       BasetenMetrics
    golden.py        labelled requests, sent to both versions

Docs: `docs/measurements-from-elsewhere.md`.
"""

from prefect_modeldeploy.sources.base import GatewaySource, MetricSource, Observed
from prefect_modeldeploy.sources.baseten import BasetenMetrics
from prefect_modeldeploy.sources.prometheus import PrometheusMetrics

Metrics = PrometheusMetrics | BasetenMetrics
"""Every block that a Deployment Target can be measured by."""

__all__ = ["BasetenMetrics", "GatewaySource", "MetricSource", "Metrics", "Observed", "PrometheusMetrics"]
