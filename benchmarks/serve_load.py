"""A server under load: python benchmarks/serve_load.py [--clients 64] [--seconds 60]

Each client asks `refgss serve` for streams of tokens, one after the other.  Printed: errors, the
time to the first token, tokens per second of all clients, and the server's open files and memory
before and after.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time


def ask(port, prompt, tokens):
    """The time to the first event, and how many tokens came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    began = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body))
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read().decode())
    first, count = None, 0
    for line in answer:
        first = first or time.perf_counter() - began
        if b'"usage"' in line:
            count = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
    connection.close()
    return first, count


def held(pid):
    """Open files, and MB of memory."""
    with open(f"/proc/{pid}/statm") as file:
        pages = int(file.read().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load(port, options):
    """First-token times, tokens, errors and seconds of all clients."""
    end, found, errors = time.perf_counter() + options.seconds, [], []

    def client(number):
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            try:
                found.append(ask(port, f"def f{number}_{turn}(n):\n", options.tokens))
            except Exception as e:
                errors.append(e)

    began = time.perf_counter()
    clients = [threading.Thread(target=client, args=(i,)) for i in range(options.clients)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    return found, errors, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("model", nargs="*")
    options = parser.parse_args()
    command = [sys.executable, "-I", "-m", "refgss", "serve", "--port", "0", *options.model]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = int(re.search(r":(\d+)/v1", server.stderr.readline())[1])
            ask(port, "x", 1)
            before = held(server.pid)
            found, errors, seconds = load(port, options)
            time.sleep(1)
            after = held(server.pid)
        finally:
            server.terminate()
    first = sorted(1000 * f for f, _ in found)
    total = sum(count for _, count in found)
    print(f"{options.clients} clients, {seconds:.0f} s, {len(found)} answers, {len(errors)} errors")
    print(
        f"first token after {statistics.median(first):.0f} ms (median), "
        f"{first[int(0.99 * len(first))]:.0f} ms (99 %); {total / seconds:.0f} tokens/s of all"
    )
    print(f"open files {before[0]} -> {after[0]}, memory {before[1]:.0f} -> {after[1]:.0f} MB")
    raise SystemExit(bool(errors))


if __name__ == "__main__":
    main()
