"""A worker's streams without a worker: from the beginning, or from where one broke off."""

import hashlib
import json

SPLIT = ("né 😀 " + '"x\\,"token_ids":[1]' + " \u2028日" + "\ufffd") * 20
"""Characters that are cut by tokens, and that need escapes in JSON."""
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"


class Model:
    """Writes events as our workers do; prompt, seed and choice decide what.

    Args:
        path: Where the request was sent.
        body: The request, as the gateway sends it.
        identity: Id and time of the stream.
    """

    def __init__(self, path, body, identity=("id-1", 1_700_000_000)):
        self.path, self.body, self.identity = path, body, identity
        prompts = body["prompt"] if path == TEXT else ["chat"]
        self.prompts = [prompts] if isinstance(prompts, str) else prompts
        self.count = body.get("n") or 1

    def stream(self):
        """Return the events of a new stream."""
        return self._write(dict.fromkeys(range(len(self.prompts) * self.count), (0, 0)))

    def go_on(self, document):
        """Return the events of a continuation, if what is asked for is what was given."""
        given = {}
        for told in document["choices"]:
            index, ids = told["index"], told["token_ids"]
            assert ids == self.list_ids(index)[: len(ids)]
            assert told["characters"] == len(self._read(index, len(ids)))
            given[index] = (len(ids), told["characters"])
        (number,) = {index // self.count for index in given}
        assert document["prompt_token_ids"] == self._list_prompt(number)
        assert (document["id"], document["created"]) == self.identity
        assert not {"prompt", "messages"} & document["request"].keys()
        assert document["request"]["priority"] < 0  # ahead of what is new there
        return self._write(given)

    def list_ids(self, index):
        """Return the tokens of a choice."""
        digest = self._digest(index)
        count = max(1, self.body["max_tokens"] - digest[1] % 4)
        return [1000 * digest[0] + place for place in range(count)]

    def _digest(self, index):
        key = f"{self.body['seed']} {self.prompts[index // self.count]} {index % self.count}"
        return hashlib.sha256(key.encode()).digest()

    def _list_prompt(self, number):
        return list(self.prompts[number].encode())

    def _bytes(self, index, count):
        sizes = [1 + byte % 4 for byte in self._digest(index)[:count]]
        return SPLIT.encode()[: sum(sizes)]

    def _read(self, index, count):
        """Return the text of so many tokens, without half a character at its end."""
        return self._bytes(index, count).decode(errors="ignore")

    def _write(self, given):
        """Write the rest of the choices in turn, a token each."""
        events = []
        for place in range(max(len(self.list_ids(index)) for index in given) + 1):
            for index, (count, sent) in given.items():
                length = len(self.list_ids(index))
                joined = self._digest(index)[2] % 2  # the last token and the end in one event
                before = sent if place == count else len(self._read(index, place))
                if count <= place < length:
                    if not place:
                        events += self._open(index)
                    last = joined and place == length - 1
                    text = self._read(index, place + 1)[before:]
                    text += self._read_rest(index) if last else ""
                    events.append(self._piece(index, text, place, ends=last))
                elif place == length and not joined:
                    events.append(self._piece(index, self._read_rest(index), None, ends=True))
        prompt = sum(len(self._list_prompt(n)) for n in {one // self.count for one in given})
        output = sum(len(self.list_ids(index)) for index in given)
        usage = {"prompt_tokens": prompt, "completion_tokens": output}
        usage["total_tokens"] = prompt + output
        return [*events, self._event({"choices": [], "usage": usage}), b"data: [DONE]\n\n"]

    def _read_rest(self, index):
        """Return what half a character at the very end becomes."""
        raw = self._bytes(index, len(self.list_ids(index)))
        return raw.decode(errors="replace")[len(raw.decode(errors="ignore")) :]

    def _open(self, index):
        ids = self._list_prompt(index // self.count)
        if self.path == CHAT:
            delta = {"role": "assistant", "content": ""}
            said = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            return [self._event({"choices": [said], "prompt_token_ids": ids})]
        if not self.body.get("echo"):
            return []
        said = {"index": index, "text": "echo", "logprobs": None, "finish_reason": None}
        return [self._event({"choices": [said | {"prompt_token_ids": ids}]})]

    def _piece(self, index, text, place, *, ends):
        said = {"index": index}
        said |= (
            {"text": text} if self.path == TEXT else {"delta": {"content": text} if text else {}}
        )
        scored = self.body.get("logprobs") and place is not None
        said["logprobs"] = {"tokens": [text, '},"finish_reason":null']} if scored else None
        said["finish_reason"] = "length" if ends else None
        said |= {"stop_reason": None} if ends else {}
        said["token_ids"] = [] if place is None else [self.list_ids(index)[place]]
        if place == 0 and self.path == TEXT and not self.body.get("echo"):
            said["prompt_token_ids"] = self._list_prompt(index // self.count)
        return self._event({"choices": [said]})

    def _event(self, document):
        kind = "text_completion" if self.path == TEXT else "chat.completion.chunk"
        head = dict(zip(("id", "created"), self.identity, strict=True))
        head |= {"model": "m", "object": kind}
        return f"data: {json.dumps({**head, **document}, separators=(',', ':'))}\n\n".encode()
