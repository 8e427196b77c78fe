"""The REST resources, one module each; every module lists its routes in ``ROUTES``."""

from . import (
    annotations,
    data,
    issues,
    jobs,
    labels,
    projects,
    quality,
    requests,
    server,
    session,
    tasks,
    users,
    webhooks,
)

ROUTES = [
    *server.ROUTES,
    *session.ROUTES,
    *users.ROUTES,
    *projects.ROUTES,
    *labels.ROUTES,
    *annotations.ROUTES,
    *data.ROUTES,
    *tasks.ROUTES,
    *jobs.ROUTES,
    *issues.ROUTES,
    *requests.ROUTES,
    *webhooks.ROUTES,
    *quality.ROUTES,
]

__all__ = ["ROUTES"]
