"""What the API server may answer, as types: by type one knows whether trying again can help."""


class KubeError(Exception):
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class NotFoundError(KubeError):
    """The object does not exist (404)."""


class ConflictError(KubeError):
    """The object has changed, or exists already (409)."""


class RejectedError(KubeError):
    """The request itself is wrong or not allowed (400, 403, 422): the same again fails again."""


class InternalError(KubeError):
    """The API server failed at it (500), as when an admission webhook is down."""


class UnreachableError(KubeError):
    """Nobody answered, or too late."""


def make_error(status: int, reason: str, message: str) -> KubeError:
    """Return the error type that belongs to an HTTP status."""
    kinds = {404: NotFoundError, 409: ConflictError, 400: RejectedError, 403: RejectedError}
    kinds |= {422: RejectedError, 500: InternalError}
    return kinds.get(status, KubeError)(status, reason, message)
