"""What goes wrong when another machine is asked."""

from __future__ import annotations

from empg.errors import UserError


class ServiceError(UserError):
    """A request to another machine failed (unreachable server, timeout, rejected key, wrong response).

    The message is one line that says why, without key and query.
    """
