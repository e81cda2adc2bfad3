#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What misbehaving clients cost the others: `spillway serve`, healthy WebSocket streams, and one kind of fault at a time.

Usage: bench/faults.py [--model GGUF] [--kind NAME ...] [--streams N] [--tokens N] [--rounds N] [--output FILE]

Kinds:
  kill      five clients a second, whose streams last 0.1 to 0.5 s, then they die (SIGKILL). Beside them: such that cancel
  headers   200 connections that send a byte of a header a second (slow loris)
  stopped   16 clients with a stream each are stopped (SIGSTOP) and never read on. Beside them: 16 that read at leisure
  frames    WebSocket connections that send random bytes, 40 a second
  json      requests whose JSON was cut, doubled, or has bytes changed, 40 a second

Each round measures the healthy streams (`spillway bench serve`) without and with the fault, in turn; the difference is the
fault's. Clients with a fault run at the lowest priority, so that they take the server's time and not the processor's.
After each kind the server's own counters must be back at zero: no block held, nobody running or waiting.
Needs nothing but Python.
"""

import argparse
import base64
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPILLWAY = ROOT / "build/cli/spillway"
BODY = {"input": "Tell me about rivers.", "max_output_tokens": 400, "ignore_eos": True}
IDLE = ["spillway_kv_blocks_held", "spillway_sequences_running", "spillway_sequences_waiting"]


def upgrade(port):
    """A WebSocket after its handshake."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(f"GET /v1/responses HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(4096)
        if not data:
            raise OSError("closed in the handshake")
        answer += data
    return connection


def text_frame(text):
    payload, mask = text.encode(), os.urandom(4)
    length = struct.pack("!BB", 0x81, 0x80 | len(payload)) if len(payload) < 126 else struct.pack("!BBH", 0x81, 0xFE, len(payload))
    return length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def start_stream(port):
    connection = upgrade(port)
    connection.sendall(text_frame(json.dumps({"type": "response.create", **BODY})))
    answer = connection.recv(65536)
    if b"response.created" not in answer:
        sys.exit(f"the stream did not begin: {answer[:300]!r}")
    return connection


def client(port, manner, seconds):
    """The body of a client process."""
    connection = start_stream(port)
    end = time.monotonic() + seconds
    connection.settimeout(0.05)
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            if not connection.recv(65536 if manner != "leisure" else 512):
                return
    if manner == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if manner == "cancel":
        connection.sendall(text_frame('{"type": "response.cancel"}'))
        connection.settimeout(5)
        answer = b""
        with contextlib.suppress(OSError):
            while b"response.incomplete" not in answer:
                answer = answer[-40:] + connection.recv(65536)


class Fault:
    """Clients with a fault, in a process of their own at the lowest priority; they end when this is left. None: none."""

    def __init__(self, port, kind):
        self.port, self.kind = port, kind

    def __enter__(self):
        if self.kind is not None:
            command = [sys.executable, __file__, "--fault", self.kind, "--port", str(self.port)]
            self.process = subprocess.Popen(command, preexec_fn=lambda: os.nice(19), start_new_session=True)
            time.sleep(1)
        return self

    def __exit__(self, *_):
        if self.kind is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def spawn(port, manner, seconds):
    return subprocess.Popen([sys.executable, __file__, "--client", manner, "--port", str(port), "--seconds", str(seconds)])


def leave_after(port, manner):
    """Five clients a second; each goes 0.1 to 0.5 s after its stream began."""
    rng, children = random.Random(7), []
    while True:
        children = [child for child in children if child.poll() is None] + [spawn(port, manner, rng.uniform(0.1, 0.5))]
        time.sleep(0.2)


def hold(port, manner):
    children = [spawn(port, "leisure" if manner == "leisure" else "read", 3600) for _ in range(16)]
    time.sleep(1)
    if manner == "stopped":
        for child in children:
            child.send_signal(signal.SIGSTOP)
    while True:
        time.sleep(1)


def slow_headers(port):
    connections = []
    while True:
        begin = time.monotonic()
        while len(connections) < 200:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-")
            connections.append(connection)
        for connection in list(connections):
            try:
                connection.sendall(b"a")
            except OSError:  # cut: another takes its place
                connections.remove(connection)
        time.sleep(max(0, begin + 1 - time.monotonic()))


def random_frames(port):
    rng = random.Random(11)
    while True:
        with contextlib.suppress(OSError):
            connection = upgrade(port)
            connection.sendall(rng.randbytes(rng.choice([1, 7, 60, 1000, 20000])))
            connection.close()
        time.sleep(1 / 40)


def broken_json(port):
    rng = random.Random(13)
    text = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}).encode()
    while True:
        body = bytearray(text)
        change = rng.randrange(3)
        if change == 0:
            body = body[: rng.randrange(len(body))]
        elif change == 1:
            body = body + body[rng.randrange(len(body)):]
        else:
            for _ in range(rng.randrange(1, 6)):
                body[rng.randrange(len(body))] = rng.randrange(256)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/v1/chat/completions", bytes(body), {"Content-Type": "application/json"})
            connection.getresponse().read()
            connection.close()
        time.sleep(1 / 40)


# What each kind is measured beside, and what it does.
KINDS = {"kill": ("cancel", "kill"), "headers": (None, "headers"), "stopped": ("leisure", "stopped"), "frames": (None, "frames"),
         "json": (None, "json")}
FAULTS = {"kill": lambda port: leave_after(port, "kill"), "cancel": lambda port: leave_after(port, "cancel"),
          "headers": slow_headers, "stopped": lambda port: hold(port, "stopped"), "leisure": lambda port: hold(port, "leisure"),
          "frames": random_frames, "json": broken_json}


def healthy(port, model, streams, tokens, seed):
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [str(SPILLWAY), "bench", "serve", "--port", str(port), "--backend", "openai-responses-ws", "--dataset-name", "random",
                   "--random-input-len", "32", "--random-output-len", str(tokens), "--ignore-eos", "--num-prompts", str(streams),
                   "--max-concurrency", str(streams), "--temperature", "0", "--seed", str(seed), "--metric-percentiles", "50,99",
                   "--no-live", "--save-result", "--result-filename", result.name, "--tokenizer", str(model)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return json.load(open(result.name))


def counters(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return {name: sum(float(x) for x in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)) for name in IDLE}


def wait_until_idle(port):
    deadline = time.monotonic() + 60
    while any(counters(port).values()):
        if time.monotonic() > deadline:
            raise SystemExit(f"the server is not idle 60 s after the last client: {counters(port)}")
        time.sleep(0.2)


def start_server(model, log):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([str(SPILLWAY), "serve", str(model), "--port", str(port), "--no-enable-prefix-caching"], stdout=log,
                              stderr=log)
    for _ in range(600):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return server, port
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the server did not become healthy")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=600, help="of each healthy stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path)
    for name in ["--fault", "--client", "--port", "--seconds"]:
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        return client(int(options.port), options.client, float(options.seconds))
    if options.fault:
        return FAULTS[options.fault](int(options.port))

    rows = []
    with tempfile.TemporaryFile() as log:
        server, port = start_server(options.model, log)
        try:
            healthy(port, options.model, options.streams, options.tokens, 0)  # warm
            for kind in options.kind or KINDS:
                rates, tails = ([], []), ([], [])
                for i in range(options.rounds):
                    for side, fault in enumerate(KINDS[kind]):
                        with Fault(port, fault):
                            figures = healthy(port, options.model, options.streams, options.tokens, i + 1)
                        if figures["failed"] or figures["completed"] != options.streams:
                            raise SystemExit(f"{kind}: {figures['failed']} healthy streams failed")
                        rates[side].append(figures["output_throughput"])
                        tails[side].append(figures["p99_itl_ms"])
                        wait_until_idle(port)
                row = {"kind": kind, "beside": KINDS[kind][0] or "nothing",
                       "tok_per_s_without": round(statistics.median(rates[0]), 1),
                       "tok_per_s_with": round(statistics.median(rates[1]), 1),
                       "ratio": round(statistics.median(b / a for a, b in zip(*rates)), 3),
                       "itl_p99_ms_without": round(statistics.median(tails[0]), 2),
                       "itl_p99_ms_with": round(statistics.median(tails[1]), 2), "rounds": options.rounds, "idle_after": True}
                rows.append(row)
                print(json.dumps(row), flush=True)
            server.send_signal(signal.SIGTERM)
            code = server.wait(timeout=60)
            print(f"the server drained and ended with exit code {code}")
        finally:
            server.kill()
    if options.output:
        commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        options.output.write_text(json.dumps({
            "date": datetime.date.today().isoformat(), "commit": commit, "streams": options.streams, "tokens": options.tokens,
            "command": "bench/faults.py " + " ".join(sys.argv[1:]), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
