#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The page at /, in headless Chromium: type, see the answer stream, press stop, see the blocks come back.

test_page.py [--shots DIR]   with SPILLWAY naming the program and SPILLWAY_SOURCE the source tree. Skipped, with a
message, where there is no Chromium or no model. --shots keeps pictures at several sizes, in light and dark."""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

SIZES = {"desktop": (1440, 900), "tablet": (900, 1100), "phone": (390, 844)}


class Browser:
    """Speaks WebDriver to chromedriver, with nothing but the standard library."""

    def __init__(self, driver, chromium):
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        port = None
        for line in self.process.stdout:
            if "on port" in line and "successfully" in line:
                port = int(line.rstrip(".\n").split()[-1])
                break
        self.base = f"http://127.0.0.1:{port}/session"
        args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
        options = {"binary": chromium, "args": args}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self.base += "/" + self.call("", wanted)["sessionId"]

    def call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command, **params):
        return self.call("/goog/cdp/execute", {"cmd": command, "params": params})

    def js(self, script):
        return self.call("/execute/sync", {"script": script, "args": []})

    def text(self, name):
        return self.js(f"return document.getElementById('{name}').textContent")

    def type(self, name, text):
        element = self.call("/element", {"using": "css selector", "value": "#" + name})
        self.call(f"/element/{next(iter(element.values()))}/value", {"text": text})

    def click(self, name):
        element = self.call("/element", {"using": "css selector", "value": "#" + name})
        self.call(f"/element/{next(iter(element.values()))}/click", {})

    def shot(self, file):
        file.write_bytes(base64.b64decode(self.call("/screenshot")))

    def look(self, size, dark):
        width, height = size
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1.5,
                      mobile=width < 500)
        self.devtools("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def close(self):
        try:
            self.call("", method="DELETE")
        finally:
            self.process.terminate()
            self.process.wait()


def until(what, condition, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise SystemExit(f"not within {seconds} s: {what}")


def start_server(model, *more):
    server = subprocess.Popen([os.environ["SPILLWAY"], "serve", str(model), "--port", "0", *more], stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if "serves on" in line:
            return server, line.split()[-1]
    raise SystemExit("the server did not start")


def held(browser):
    return int(browser.text("blocks").split(" of ")[0] or "0")


def check(browser, url, shots):
    browser.call("/url", {"url": url})
    until("the page is live", lambda: browser.text("link") == "live")
    assert "0 of" in until("the map says how many blocks there are", lambda: browser.text("blocks"))
    if shots:
        browser.look(SIZES["desktop"], False)
        browser.shot(shots / "empty-light.png")

    browser.type("prompt", "What is the capital of France?\ue007")
    words = "return (document.querySelector('.assistant') || {textContent: ''}).textContent.trim().split(/\\s+/).length"
    until("an answer of some words", lambda: browser.js(words) >= 3)
    # It is sampled, and a small model may go on for long: after a while it is stopped.
    end = time.monotonic() + 15
    while time.monotonic() < end and not browser.js("return !!document.querySelector('.note')"):
        time.sleep(0.1)
    if not browser.js("return document.getElementById('stop').hidden"):
        browser.click("stop")
    until("the note below the answer", lambda: browser.js("return !!document.querySelector('.note')"))
    assert "tokens" in browser.js("return (document.querySelector('.note') || {textContent: ''}).textContent")

    browser.type("prompt", "Write a very long story about a river, in twenty chapters")
    browser.click("send")
    length = "return [...document.querySelectorAll('.assistant')].at(-1).textContent.length"
    until("the answer begins", lambda: browser.js("return document.querySelectorAll('.assistant').length") == 2)
    first = until("text", lambda: browser.js(length))
    until("more text: it streams", lambda: browser.js(length) > first)
    until("blocks are live", lambda: held(browser) > 0)
    until("it runs", lambda: browser.text("running") == "1")
    if shots:
        time.sleep(2.5)
        for name, size in SIZES.items():
            for dark in (False, True):
                browser.look(size, dark)
                time.sleep(0.6)
                browser.shot(shots / f"{name}-{'dark' if dark else 'light'}.png")
        browser.js("document.getElementById('engine').scrollIntoView()")
        time.sleep(0.4)
        browser.shot(shots / "phone-engine-dark.png")
        browser.look(SIZES["desktop"], False)
    else:
        # A narrow screen: nothing sticks out sideways.
        browser.look(SIZES["phone"], True)
        wide = browser.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{wide} pixels stick out on a phone"
        browser.look(SIZES["desktop"], False)
    browser.click("stop")
    until("it stopped", lambda: browser.js("return document.getElementById('stop').hidden"))
    assert "stopped" in browser.js("return [...document.querySelectorAll('.note')].at(-1).textContent")
    until("the blocks came back", lambda: held(browser) == 0 and browser.text("running") == "0")

    browser.type("prompt", "Thanks.\ue007")
    until("the conversation goes on after a stop",
          lambda: browser.js("return [...document.querySelectorAll('.assistant')].slice(2).some(e => e.textContent)"))
    logs = [entry["message"] for entry in browser.call("/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]
    assert not logs, logs


def check_sparse(browser, url, shots):
    browser.call("/url", {"url": url})
    until("the page is live", lambda: browser.text("link") == "live")
    assert browser.js("return document.getElementById('evicted').parentElement.hidden")
    browser.type("prompt", "Write a very long story about a river, in twenty chapters\ue007")
    until("tokens are evicted", lambda: browser.js("return !document.getElementById('evicted').parentElement.hidden"))
    evicted = int(browser.text("evicted"))
    until("more are", lambda: browser.text("evicted").endswith("k") or int(browser.text("evicted")) > evicted)
    assert int(browser.text("reused")) > 0 and browser.text("fragmentation").endswith("%")
    for name, size in SIZES.items() if shots else ():
        for dark in (False, True):
            browser.look(size, dark)
            browser.js("document.getElementById('engine').scrollIntoView()")
            time.sleep(0.6)
            browser.shot(shots / f"sparse-{name}-{'dark' if dark else 'light'}.png")
    browser.look(SIZES["phone"], True)
    wide = browser.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} pixels stick out on a phone"
    browser.click("stop")
    until("the note says so", lambda: "not exact" in browser.js("return (document.querySelector('.note') || {textContent: ''}).textContent"))


def skipped(why):
    print(f"ok 1 - the page # SKIP {why}")
    return 0


def main():
    print("1..1", flush=True)
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    model = pathlib.Path(os.environ.get("SPILLWAY_TEST_MODEL") or
                         pathlib.Path(os.environ["SPILLWAY_SOURCE"]) / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not driver or not chromium:
        return skipped("no chromium and chromedriver here (apt-get install chromium chromium-driver)")
    if not model.exists():
        return skipped(f"no {model} (./dev model fetches it)")
    shots = pathlib.Path(sys.argv[2]) if sys.argv[1:2] == ["--shots"] else None
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    server, url = start_server(model)
    sparse, sparse_url = start_server(model, "--sparse-kv-cache-method", "h2o", "--sparse-kv-cache-budget", "64")
    try:
        browser = Browser(driver, chromium)
        try:
            check(browser, url, shots)
            check_sparse(browser, sparse_url, shots)
        finally:
            browser.close()
    except (AssertionError, SystemExit) as error:
        print("not ok 1 - the page: typed, streamed, stopped, blocks came back")
        print(f"# {error!r}")
        return 1
    finally:
        for each in (server, sparse):
            each.terminate()
            each.wait()
    print("ok 1 - the page: typed, streamed, stopped, blocks came back")
    return 0


sys.exit(main())
