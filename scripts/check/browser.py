"""A web page as a client of `translora serve`: what scripts/check/clients runs.

usage: browser.py CHROMIUM CLOSED OPEN KEY ROWS

CLOSED and OPEN are the servers without and with --cors-origin localhost.
"""

import http.server
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

PATIENCE = 120
chromium, closed, opened, key, rows = sys.argv[1:]
page = pathlib.Path(__file__).with_suffix(".html").read_bytes()
results = queue.Queue()


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        there = self.path == "/"
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page if there else b"")

    def do_POST(self):
        results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def browse(url, prompt):
    """What the page says after it asked `url`."""
    asked = urllib.parse.quote(
        json.dumps({"url": url, "key": key, "model": "ticket", "prompt": prompt})
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ]
        browser = subprocess.Popen(
            command + [f"http://localhost:{pages.server_port}/#{asked}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return results.get(timeout=PATIENCE)
        except queue.Empty:
            sys.exit(f"the page said nothing for {PATIENCE} seconds")
        finally:
            browser.terminate()
            browser.wait()


def whole(prompt):
    body = {"model": "ticket", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    request = urllib.request.Request(
        f"{opened}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


pages = http.server.ThreadingHTTPServer(("localhost", 0), Pages)
threading.Thread(target=pages.serve_forever, daemon=True).start()
prompt = json.loads(open(rows).readline())["prompt"]

seen = browse(opened, prompt)
assert seen.get("text") == whole(prompt) and seen["pieces"] > 1 and seen["done"], seen
assert seen["generation"] == "1" and seen["models"] == ["base", "ticket"], seen
refused = browse(closed, prompt)
assert refused == {"error": "TypeError: Failed to fetch"}, refused
print(
    f"browser: a page reads an answer in {seen['pieces']} pieces where --cors-origin names it, and"
    " nothing where it does not"
)
