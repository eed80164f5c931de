from collections.abc import Iterator

import pytest
from service_processes import ServiceProcess, both_services


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
