"""What can be wrong, as types whose message is a sentence for the person who caused it."""


class CheckpointError(Exception):
    """The checkpoint is missing, incomplete, or of a form that is not supported."""


class EmulationError(Exception):
    """The emulated devices could not run the nominal model."""


class KnownAnswersError(Exception):
    """Known answers cannot be read or made."""


class DeviceError(Exception):
    """A device failed under a call; nothing on it can go on."""


class RequestError(Exception):
    """A request cannot be served; becomes an OpenAI error body.

    Attributes:
        status: HTTP status.
        code: word for programs, as OpenAI's API has it.
        param: field of the request that is meant, or None.
        retry_after: seconds after which the same request may succeed, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_request",
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after


class EngineFailedError(RequestError):
    """The engine failed under a request."""

    def __init__(self) -> None:
        super().__init__(
            "the engine failed while it worked on this request", status=500, code="engine_failed"
        )
