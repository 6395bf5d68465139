"""What the gateway's record of a stream costs of processor time, for each chunk that it passes on.

    python benchmarks/gateway/events.py

Feeds events in our workers' form, and in vLLM's, one at a time through splitter, record and
stripping, as the gateway does, and prints the least of several rounds in microseconds a chunk.
Sockets, HTTP and the event loop come on top.
"""

import json
import time

from sluice_gateway.calls import parse_call
from sluice_gateway.continuation import begin_transcript
from sluice_gateway.events import EventSplitter, StreamProgress

_CHUNKS = 20_000
_ROUNDS = 7


def make_event(number: int, *, vllm: bool, ids: bool) -> bytes:
    """Return one chunk of a chat."""
    said = {"index": 0, "delta": {"content": f" word{number % 9}"}, "logprobs": None}
    said |= {"finish_reason": None} | ({"stop_reason": None} if vllm else {})
    if ids:
        said |= {"token_ids": [number]}
    document = {"id": "chatcmpl-" + "0" * 32, "created": 1_760_000_000, "model": "compact"}
    document |= {"object": "chat.completion.chunk", "choices": [said]}
    if vllm:
        document |= {"usage": None}
    return f"data: {json.dumps(document, separators=(',', ':'))}\n\n".encode()


def measure(*, vllm: bool, ids: bool = True) -> float:
    """Return microseconds of processor time a chunk."""
    body = {"model": "compact", "messages": [{"role": "user", "content": "x"}], "stream": True}
    call = parse_call("/v1/chat/completions", json.dumps(body).encode(), seed=1)
    events = [make_event(number, vllm=vllm, ids=ids) for number in range(_CHUNKS)]
    opening = json.loads(events[0][6:])
    opening["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": ""}}]
    opening["prompt_token_ids"] = [1, 2, 3]
    least = float("inf")
    for _ in range(_ROUNDS):
        progress = StreamProgress(begin_transcript(call), wants_usage=False)
        splitter = EventSplitter(most_bytes=1 << 20)
        progress.take(
            splitter.feed(f"data: {json.dumps(opening, separators=(',', ':'))}\n\n".encode()), 0.0
        )
        began = time.process_time()
        for event in events:
            progress.take(splitter.feed(event), 1.0)
        least = min(least, time.process_time() - began)
    return 1e6 * least / _CHUNKS


def main() -> None:
    """Print one line for each form."""
    print(f"our workers' form: {measure(vllm=False):.1f} us a chunk")
    print(f"vLLM's form: {measure(vllm=True):.1f} us a chunk")
    print(f"without token ids: {measure(vllm=False, ids=False):.1f} us a chunk")


if __name__ == "__main__":
    main()
