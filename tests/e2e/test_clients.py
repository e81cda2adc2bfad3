#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The server with the clients that people use: the openai package (HTTP, streams, Responses, its WebSocket and its
lanes) and websockets. With SPILLWAY naming the program and SPILLWAY_SOURCE the source tree; SPILLWAY_CLIENTS may name a
Python that has them (pip install 'openai[realtime]>=3.51'). Skipped, with a message, where they or the model are missing."""

import json
import os
import pathlib
import subprocess
import sys

QUESTION = "Write two sentences about rivers."
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


def read_response(connection):
    text, types = "", []
    for event in connection:
        types.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type in ENDS:
            return text, event, types
    raise SystemExit("the connection ended in the middle of a response")


def check_http(client, model):
    messages = [{"role": "user", "content": QUESTION}]
    whole = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=60)
    expected = whole.choices[0].message.content
    assert len(expected) > 20, expected

    streamed, usage = "", None
    for chunk in client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=60, stream=True,
                                                stream_options={"include_usage": True}):
        if chunk.choices:
            streamed += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    assert streamed == expected, (streamed, expected)
    assert usage.completion_tokens == whole.usage.completion_tokens

    response = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=60)
    assert response.output_text == expected, (response.output_text, expected)
    with client.responses.stream(model=model, input=QUESTION, temperature=0, max_output_tokens=600) as stream:
        types = [event.type for event in stream]
        assert stream.get_final_response().output_text.startswith(expected[:20])
    assert types[0] == "response.created" and types[-1] == "response.completed", types

    choices = client.chat.completions.create(
        model=model, messages=messages, max_tokens=4, n=3, logprobs=True, top_logprobs=3, seed=4, stop=["zzz"],
        presence_penalty=0.1, extra_body={"ignore_eos": True, "top_k": 20, "min_p": 0.01}).choices
    assert [len(choice.logprobs.content) for choice in choices] == [4, 4, 4]
    text = client.completions.create(model=model, prompt="Once upon a time", max_tokens=5, temperature=0, logprobs=2)
    assert len(text.choices[0].logprobs.tokens) == 5
    return expected


def check_errors(client, model, openai):
    for wrong, kind in (({"model": "none", "input": "x"}, openai.NotFoundError),
                        ({"model": model, "input": "x", "previous_response_id": "resp_x"}, openai.BadRequestError)):
        try:
            client.responses.create(**wrong)
            raise SystemExit(f"{wrong} was accepted")
        except kind as error:
            assert error.body["message"], error


def check_websocket(client, model, expected):
    with client.responses.connect() as connection:
        def ask(**fields):
            connection.response.create(model=model, **fields)
            return read_response(connection)

        text, end, types = ask(input=QUESTION, temperature=0, max_output_tokens=60)
        assert text == expected, (text, expected)
        assert types[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                             "response.content_part.added"], types
        _, more, _ = ask(input="And lakes?", previous_response_id=end.response.id, temperature=0, max_output_tokens=8, store=False)
        assert more.response.usage.input_tokens_details.cached_tokens >= 32, more.response.usage
        _, wrong, _ = ask(input="x", previous_response_id="resp_none")
        assert wrong.error.code == "previous_response_not_found", wrong
        connection.send({"type": "response.create", "model": model, "stream_id": "a", "input": "Tell a very long story",
                         "ignore_eos": True, "max_output_tokens": 2000})
        for event in connection:
            if event.type == "response.output_text.delta":
                break
        connection.send({"type": "response.cancel", "stream_id": "a"})
        _, cancelled, _ = read_response(connection)
        assert (cancelled.type, cancelled.response.status) == ("response.incomplete", "cancelled"), cancelled


def check_lanes(client, model, expected):
    from openai.lib.responses_websocket import ResponsesWebSocketLimits, ResponsesWebSocketSession
    limits = ResponsesWebSocketLimits(max_lanes=8, max_events_per_lane=4096, max_events=16384, max_bytes_per_lane=1 << 24,
                                      max_bytes=1 << 26)
    with client.responses.connect() as connection:
        with ResponsesWebSocketSession(connection, limits=limits) as session:
            lanes = [session.lane(f"lane-{number}") for number in range(4)]
            for lane in lanes:
                lane.send({"type": "response.create", "model": model, "input": QUESTION, "temperature": 0,
                           "max_output_tokens": 60})
            for lane in lanes:
                text = lane.get_final_response().output_text
                assert text == expected, (text, expected)


def check_plain_websocket(url, expected):
    from websockets.sync.client import connect
    with connect(url.replace("http", "ws") + "/v1/responses", max_size=1 << 24) as socket:  # offers permessage-deflate
        socket.send(json.dumps({"type": "response.create", "input": QUESTION, "temperature": 0, "max_output_tokens": 60}))
        text = ""
        for message in socket:
            event = json.loads(message)
            text += event.get("delta", "")
            if event["type"] in ENDS:
                break
        assert text == expected, (text, expected)
        assert socket.ping().wait(5)


def run(model_file):
    import openai
    server = subprocess.Popen([os.environ["SPILLWAY"], "serve", str(model_file), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        url = next(line.split()[-1] for line in server.stdout if "serves on" in line)
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", timeout=60)
        model = client.models.list().data[0].id
        expected = check_http(client, model)
        check_errors(client, model, openai)
        check_websocket(client, model, expected)
        check_lanes(client, model, expected)
        check_plain_websocket(url, expected)
    finally:
        server.terminate()
    assert server.wait(40) == 0, server.returncode


def main():
    python = os.environ.get("SPILLWAY_CLIENTS")
    if python and sys.executable != python:
        os.execv(python, [python, *sys.argv])
    case = "clients: one greedy text over chat, its stream, Responses, WebSocket, lanes and plain websockets"
    print("1..1", flush=True)
    model_file = pathlib.Path(os.environ.get("SPILLWAY_TEST_MODEL") or
                              pathlib.Path(os.environ["SPILLWAY_SOURCE"]) / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    try:
        import openai  # noqa: F401
        import openai.lib.responses_websocket  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        print(f"ok 1 - {case} # SKIP {error} (pip install 'openai[realtime]>=3.51'; SPILLWAY_CLIENTS names its Python)")
        return 0
    if not model_file.exists():
        print(f"ok 1 - {case} # SKIP no {model_file} (./dev model fetches it)")
        return 0
    try:
        run(model_file)
    except (Exception, SystemExit) as error:
        print(f"not ok 1 - {case}\n# {error!r}")
        return 1
    print(f"ok 1 - {case}")
    return 0


sys.exit(main())
