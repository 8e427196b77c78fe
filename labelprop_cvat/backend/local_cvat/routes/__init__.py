"""The REST resources, one module each; every module lists its routes in ``ROUTES``."""

from . import annotations, data, jobs, labels, projects, requests, server, session, tasks, users

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
    *requests.ROUTES,
]

__all__ = ["ROUTES"]
