"""The choices of a completion in the form of a chat, for chats that go on as completions."""

from typing import Any

Json = dict[str, Any]


def write_as_chat(said: Json) -> Json:
    """Return a chat's form of one choice of a completion's event; its ids stay where they are."""
    text = said.get("text")
    told = {key: value for key, value in said.items() if key not in ("text", "index", "logprobs")}
    return {
        "index": said["index"],
        "delta": {"content": text} if text else {},
        "logprobs": _write_scores(said.get("logprobs")),
        **told,
    }


def _write_scores(scores: object) -> Json | None:
    """Return a chat's form of log-probabilities; None if there are none that can be read."""
    if not isinstance(scores, dict):
        return None
    tokens, values = scores.get("tokens"), scores.get("token_logprobs")
    tops = scores.get("top_logprobs") or []
    if not isinstance(tokens, list) or not isinstance(values, list) or not isinstance(tops, list):
        return None
    content = []
    for place, (token, value) in enumerate(zip(tokens, values, strict=False)):
        top = tops[place] if place < len(tops) and isinstance(tops[place], dict) else {}
        likeliest = [_write_score(*one) for one in top.items()]
        content.append({**_write_score(token, value), "top_logprobs": likeliest})
    return {"content": content, "refusal": None}


def _write_score(token: object, value: object) -> Json:
    name = str(token)
    return {"token": name, "logprob": value, "bytes": list(name.encode(errors="replace"))}
