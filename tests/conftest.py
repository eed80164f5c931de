"""What holds for every test, and the services that those of whole processes share."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from support.processes.service_processes import ServiceProcess, both_services

# Read when a kernel is declared, so it must be set before any of them is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    from support.twins import interpreter_repairs

    interpreter_repairs.repair()

# How long an example takes, or takes to be thought up, tells of the machine and not of the code.
settings.register_profile(
    "no clock", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def services() -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """Engine and tokenizer service, shared by the tests that leave them as they were."""
    with both_services() as pair:
        yield pair
        for service in pair:
            assert service.process.poll() is None, service.log


@pytest.fixture
def engine(services: tuple[ServiceProcess, ServiceProcess]) -> ServiceProcess:
    return services[0]


@pytest.fixture
def tokenizer(services: tuple[ServiceProcess, ServiceProcess]) -> ServiceProcess:
    return services[1]
