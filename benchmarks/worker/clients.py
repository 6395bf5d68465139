"""LangChain's chat model and guidellm against a server of ours; `clients.sh` installs and runs it.

The number of requests is small and fixed: what is asked is whether the clients work, not how fast
the server is. guidellm's figures are printed as it reports them, of what the server serves: a
worker with an emulated device has that device's.
"""

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openai
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

COMPACT = Path(__file__).resolve().parents[2] / "workers/models/compact"
ASKED = [SystemMessage("Be brief."), HumanMessage("Sort 31 12 25.")]
OTHERS = [f"Add {n}+{n + 3}." for n in range(4)]
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 32
RUNS = {
    "chats, streamed, 4 at a time": (
        "/v1/chat/completions",
        "kind=concurrent,streams=4",
        24,
    ),
    "completions, streamed, 2 a second": ("/v1/completions", "kind=poisson,rate=2", 12),
}
"""guidellm's runs by name: endpoint, profile, requests."""


class WrongError(Exception):
    """A client got something else than it had a right to expect."""


def expect(holds: object, what: str) -> None:
    """Raise `WrongError` unless something holds."""
    if not holds:
        raise WrongError(what)


def check_chat(model: ChatOpenAI) -> str:
    """Ask whole, streamed, in a batch and in a chain: the answers must agree."""
    whole = model.invoke(ASKED)
    chunks = list(model.stream(ASKED))
    expect(whole.content, "the answer is empty")
    expect("".join(str(c.content) for c in chunks) == whole.content, "the stream says otherwise")
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    expect(len(usage) == 1, f"{len(usage)} events of the stream have usage, not one")
    for part in ("input_tokens", "output_tokens", "total_tokens"):
        expect(usage[0][part] == whole.usage_metadata[part], f"the stream counts other {part}")
    alone = [model.invoke(text).content for text in OTHERS]
    expect([one.content for one in model.batch(OTHERS)] == alone, "a batch says otherwise")
    template = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{task}")])
    chain = template | model | StrOutputParser()
    expect(chain.invoke({"task": ASKED[1].content}) == whole.content, "a chain says otherwise")
    return f"{whole.content!r} whole, streamed, batched and in a chain; {usage[0]}"


def check_options(model: ChatOpenAI) -> str:
    """Ask with a stop text, with log-probabilities, and with seeds."""
    whole = model.invoke(ASKED)
    end = str(whole.content)[1:3]
    stopped = model.invoke(ASKED, stop=[end])
    expect(stopped.content == whole.content.split(end)[0], f"stop={end!r} gave {stopped.content!r}")
    expect(stopped.response_metadata["finish_reason"] == "stop", "a stop text is no stop")
    told = model.bind(logprobs=True, top_logprobs=2).invoke(ASKED).response_metadata["logprobs"]
    expect(
        "".join(one["token"] for one in told["content"]) == whole.content,
        "the tokens with log-probabilities are not the answer",
    )
    hot = model.bind(temperature=1.5, extra_body={"ignore_eos": True})
    seeded = [hot.bind(seed=seed).invoke(ASKED).content for seed in (1, 1, 2)]
    expect(seeded[0] == seeded[1] != seeded[2], "seeds do not repeat, or make no difference")
    return f"stop, logprobs ({len(told['content'])} tokens), seed"


def check_refusals(model: ChatOpenAI) -> str:
    """Ask for tools and for structured output: refused by a sentence that names the field."""
    schema = {"title": "Answer", "type": "object", "properties": {"n": {"type": "integer"}}}
    schema["description"] = "an answer"
    asking: dict[str, Callable[[], Any]] = {
        "tools": lambda: model.bind_tools([schema]).invoke(ASKED),
        "response_format": lambda: model.with_structured_output(
            schema, method="json_schema"
        ).invoke(ASKED),
    }
    for field, ask in asking.items():
        try:
            ask()
        except openai.BadRequestError as refused:
            expect(f"leave {field} out" in str(refused), f"{field} is refused by {refused}")
        else:
            raise WrongError(f"{field} was not refused")
    return "tools and response_format are refused by a sentence (BadRequestError)"


async def check_async(model: ChatOpenAI) -> str:
    """Ask asynchronously, whole, streamed and side by side: the answers must agree."""
    whole = await model.ainvoke(ASKED)
    chunks = [chunk async for chunk in model.astream(ASKED)]
    said = "".join(str(chunk.content) for chunk in chunks)
    expect(whole.content, "the answer is empty")
    expect(said == whole.content, "the stream says otherwise")
    expect(len([one for one in chunks if one.content]) > 1, "the stream came in one piece")
    together = await model.abatch(OTHERS)
    alone = [(await model.ainvoke(text)).content for text in OTHERS]
    expect([one.content for one in together] == alone, "a batch says otherwise")
    return f"{whole.content!r} whole, in {len(chunks)} chunks, and {len(alone)} side by side"


def run_guidellm(options: argparse.Namespace, name: str) -> str:
    """Run guidellm's own command and return what it reported."""
    path, profile, count = RUNS[name]
    report = options.reports / f"guidellm{path.replace('/', '-')}.json"
    report.unlink(missing_ok=True)
    key = os.environ.get("OPENAI_API_KEY")
    backend = f"kind=openai_http,target={options.url},model={options.model},request_format={path}"
    lengths = f"prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "guidellm"),
            "run",
            *("--backend", backend + (f",api_key={key}" if key else "")),
            *("--profile", profile),
            *("--constraint", f"kind=max_requests,count={count}"),
            *("--data", f"kind=synthetic_text,{lengths}"),
            *("--tokenizer", f"kind=huggingface_auto,model={options.tokenizer}"),
            *("--output", f"kind=json,path={report}"),
            "--disable-console",
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    expect(done.returncode == 0, f"guidellm ended with {done.returncode}:\n{done.stderr[-3000:]}")
    metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    totals = metrics["request_totals"]
    expect(totals["successful"] == totals["total"] == count, f"{totals} of {count} requests")
    counted = metrics["output_token_count"]["successful"]
    expect(
        (counted["min"], counted["max"]) == (OUTPUT_TOKENS, OUTPUT_TOKENS),
        f"answers had {counted['min']} to {counted['max']} tokens, not {OUTPUT_TOKENS}",
    )
    return f"{count} of {count} requests; {'; '.join(list_figures(metrics))}"


def list_figures(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield the times that guidellm reports, in milliseconds."""
    for label, name in (
        ("TTFT", "time_to_first_token_ms"),
        ("ITL", "inter_token_latency_ms"),
    ):
        found = metrics[name]["successful"]
        yield f"{label} p50 {found['median']:.1f} ms, p95 {found['percentiles']['p95']:.1f} ms"
    yield f"{metrics['output_tokens_per_second']['successful']['mean']:.0f} output tokens/s"


def trust(authority: Path) -> None:
    """Have this process and its children trust an authority, as a user would: by the environment.

    openai, LangChain and guidellm speak through httpx, which reads it.
    """
    try:
        ssl.create_default_context(cafile=str(authority))
    except OSError as error:
        sys.exit(f"--ca {authority} cannot be read ({error}): name a PEM file with a certificate")
    os.environ["SSL_CERT_FILE"] = str(authority.resolve())


def find_model(url: str, key: str) -> str:
    """Return the name of the first model that a server lists."""
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            listed = [model.id for model in client.models.list()]
    except openai.APIError as error:
        sys.exit(f"{url}/v1/models cannot be read ({error}): give the URL of a worker or a gateway")
    if not listed:
        sys.exit(f"{url} lists no model: create a pool, or name a worker's URL")
    return listed[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--model", help="name to ask for; by default the first that is listed")
    parser.add_argument("--tokenizer", type=Path, default=COMPACT, help="for guidellm's prompts")
    parser.add_argument("--only", choices=["langchain", "guidellm"], help="by default both")
    parser.add_argument("--ca", type=Path, help="authority of the server's certificate, PEM")
    parser.add_argument("--reports", type=Path, required=True)
    options = parser.parse_args()
    options.url = options.url.rstrip("/").removesuffix("/v1")
    options.reports.mkdir(parents=True, exist_ok=True)
    key = os.environ.get("OPENAI_API_KEY", "unused")
    if options.ca is not None:
        trust(options.ca)
    if options.model is None:
        options.model = find_model(options.url, key)
    chat = ChatOpenAI(
        base_url=f"{options.url}/v1",
        api_key=key,
        model=options.model,
        temperature=0,
        max_tokens=OUTPUT_TOKENS,
        stream_usage=True,
        max_retries=0,
        timeout=120,
    )
    print(f"{options.model} at {options.url}")
    lang, guide = (f"{name} {version(name)}" for name in ("langchain-openai", "guidellm"))
    steps: dict[str, Callable[[], str]] = {
        f"{lang}, chats": lambda: check_chat(chat),
        f"{lang}, asynchronous": lambda: asyncio.run(check_async(chat)),
        f"{lang}, options": lambda: check_options(chat),
        f"{lang}, refusals": lambda: check_refusals(chat),
        **{f"{guide}, {name}": lambda name=name: run_guidellm(options, name) for name in RUNS},
    }
    failed = 0
    for name, step in steps.items():
        if options.only and options.only not in name:
            continue
        try:
            print(f"ok      {name}: {step()}", flush=True)
        except WrongError as wrong:
            failed += 1
            print(f"FAILED  {name}: {wrong}", flush=True)
        except Exception as error:  # noqa: BLE001  # what a client raises; the others run as well
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
