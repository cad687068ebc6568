"""What is counted and measured, by the names under which Prometheus knows it; docs/metrics.md explains each."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector

REGISTRY = CollectorRegistry(auto_describe=True)
"""All that the operator exposes; one of our own, so that no library adds to it what nobody documented."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

BUILD_INFO = Gauge(
    "hoop_build_info", "Which version of the operator runs; always 1.", ["version"], registry=REGISTRY
)
BUILD_INFO.labels(version("hoop-operator")).set(1)
