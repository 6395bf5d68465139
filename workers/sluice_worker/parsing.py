"""Reads request bodies, and says in a sentence what is wrong with one."""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from sluice_worker.errors import RequestError

Json = dict[str, Any]

REFUSED: Final[Mapping[str, tuple[object, ...]]] = {
    "suffix": (None, ""),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
    "use_beam_search": (None, False),
    "structured_outputs": (None, {}),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "logits_processors": (None, []),
    "prompt_embeds": (None,),
    "truncate_prompt_tokens": (None,),
    "skip_special_tokens": (None, True),
    "chat_template": (None,),
    "documents": (None, []),
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
    "return_tokens_as_token_ids": (None, False),
}
"""Fields of OpenAI's and vLLM's API that would change the answer and are not done here, with the
values that ask for nothing."""

RequestT = TypeVar("RequestT", bound=BaseModel)


def parse_body(body: bytes) -> Json:
    """Read a body as a JSON object.

    Raises:
        RequestError: it is none, or nested too deeply, or has numbers that JSON does not know.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON, or nested too deeply") from error
    if not isinstance(document, dict):
        raise RequestError("the body must be a JSON object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise RequestError(f"the body has {name}, which is no number in JSON")


def check_body(kind: type[RequestT], document: Json) -> RequestT:
    """Read a request from a JSON object.

    Raises:
        RequestError: a field is missing or wrong, or one asks for what is not done here; the
            sentence names it.
    """
    for name, harmless in REFUSED.items():
        value = document.get(name)
        # To Python, False equals 0.
        if not any(
            value == one and isinstance(value, bool) is isinstance(one, bool) for one in harmless
        ):
            raise RequestError(
                f"{name} is {_shorten(value)}, which this server does not do: leave {name} out",
                code="unsupported_parameter",
                param=name,
            )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _describe_first(error) from error


def parse_request(kind: type[RequestT], body: bytes) -> RequestT:
    """Read a request body; raises what `parse_body` and `check_body` do."""
    return check_body(kind, parse_body(body))


def _describe_first(error: ValidationError) -> RequestError:
    """Return the first fault as a sentence with the field's name and value."""
    # Where several types are possible, the one that fits deepest is the one to explain.
    first = max(error.errors(include_url=False), key=lambda fault: len(fault["loc"]))
    told = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if not first["loc"]:  # several fields, which do not go together
        return RequestError(told)
    # A type's name among the places (`str`, `list[str]`) is no field.
    path = [str(part) for part in first["loc"] if part != "str" and "[" not in str(part)]
    name = ".".join(path)[:80]
    if first["type"] == "missing":
        return RequestError(f"{name} is missing", param=path[0])
    return RequestError(f"{name} is {_shorten(first['input'])}: {told}", param=path[0])


def _shorten(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004  # enough to recognise it


def describe_error(error: RequestError) -> Json:
    """Return the OpenAI error body."""
    kinds = {
        401: "authentication_error",
        404: "not_found_error",
        429: "rate_limit_error",
        500: "internal_server_error",
        503: "service_unavailable_error",
    }
    return {
        "error": {
            "message": str(error),
            "type": kinds.get(error.status, "invalid_request_error"),
            "param": error.param,
            "code": error.code,
        }
    }


def describe_usage(prompt: int, output: int) -> Json:
    """Return token counts."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
