"""Drives a server with OpenAI's own client: client.py tokens|text URL MODEL JSON. Prints "WHAT: passed" or fails."""

import asyncio
import json
import sys

import openai

what, url, model, more = sys.argv[1:]
more = json.loads(more)
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def refused(kind, status, field, call):
    try:
        call()
    except kind as error:
        assert error.status_code == status, error
        assert error.param == field, (error.param, field)
        return error
    raise AssertionError(f"expected {kind.__name__}")


def tokens():
    prompt, greedy = more["prompt"], more["greedy"]
    ask = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": len(greedy)}
    assert [card.id for card in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model

    whole = client.completions.create(**ask)
    assert whole.choices[0].token_ids == greedy
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.prompt_tokens == len(prompt)
    assert whole.usage.completion_tokens == len(greedy)

    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert [token for chunk in chunks for choice in chunk.choices for token in choice.token_ids] == greedy
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])

    several = client.completions.create(**{**ask, "prompt": [prompt, prompt]})
    assert [choice.token_ids for choice in several.choices] == [greedy, greedy]

    stopped = client.completions.create(**ask, extra_body={"stop_token_ids": [greedy[3]]})
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].token_ids == greedy[: greedy.index(greedy[3]) + 1]

    drawn = [client.completions.create(**{**ask, "temperature": 1, "seed": 5}) for _ in range(2)]
    assert drawn[0].choices[0].token_ids == drawn[1].choices[0].token_ids

    create = client.completions.create
    refused(openai.NotFoundError, 404, "model", lambda: create(model="other", prompt=prompt))
    refused(openai.BadRequestError, 400, "n", lambda: create(**ask, n=2))
    refused(openai.BadRequestError, 400, "logprobs", lambda: create(**ask, logprobs=1))
    error = refused(openai.BadRequestError, 400, "max_tokens", lambda: create(**{**ask, "max_tokens": 99999}))
    assert error.code == "context_length_exceeded"
    full()


def full():
    """One runs, one waits, the third is told to come back; closing the streams makes room."""
    ask = {"model": model, "prompt": [1, 2], "temperature": 0, "max_tokens": 8000, "stream": True}
    running = client.completions.create(**ask)
    next(iter(running))
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as other:
        waiting = other.completions.create(**ask)
        error = refused(openai.RateLimitError, 429, None, lambda: client.completions.create(**ask))
        assert int(error.response.headers["retry-after"]) >= 1
        waiting.close()
    running.close()
    patient = openai.OpenAI(base_url=url, api_key="none", max_retries=5)
    assert patient.completions.create(model=model, prompt=[1], max_tokens=2).usage.completion_tokens == 2


def text():
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "hello"}]
    ask = {"model": model, "messages": messages, "max_completion_tokens": 24, "seed": 1}
    chat = client.chat.completions.create(**ask)
    content = chat.choices[0].message.content
    assert chat.choices[0].message.role == "assistant" and content
    assert chat.usage.completion_tokens == 24

    stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == chat.usage

    whole = client.completions.create(model=model, prompt=more["prompt"], max_tokens=32, temperature=0)
    told = whole.choices[0].text
    assert "\u20ac" in told, told
    stop = told[5:8]
    cut = client.completions.create(model=model, prompt=more["prompt"], max_tokens=32, temperature=0, stop=[stop])
    assert cut.choices[0].text == told[: told.index(stop)] and cut.choices[0].finish_reason == "stop"
    refused(openai.BadRequestError, 400, "tools", lambda: client.chat.completions.create(
        model=model, messages=messages, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]))
    asyncio.run(together(messages))


async def together(messages):
    """Sixteen at once get what each gets alone."""
    seeds = range(16)
    ask = {"model": model, "messages": messages, "max_completion_tokens": 20}
    alone = [client.chat.completions.create(**ask, seed=seed).choices[0].message.content for seed in seeds]
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as many:
        answers = await asyncio.gather(*(many.chat.completions.create(**ask, seed=seed) for seed in seeds))
    assert [answer.choices[0].message.content for answer in answers] == alone


{"tokens": tokens, "text": text}[what]()
print(f"{what}: passed")
