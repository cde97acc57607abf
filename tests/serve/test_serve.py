"""`refgss serve` as its clients meet it: a server of its own, and real clients."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from refgss.cli.models import BUNDLED
from refgss.model import Sampling, Session, generate, load_checkpoint, load_tokenizer

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")


@contextmanager
def serving(*options):
    """The port of a server, and its process."""
    command = [sys.executable, "-m", "refgss", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline()
            while "serving" not in said:
                assert said, process.wait()
                said = process.stderr.readline()
            port = int(re.search(r":(\d+)/v1", said)[1])
            wait_for(port)
            yield port, process
        finally:
            process.kill()


def wait_for(port):
    for _ in range(600):
        try:
            return get(port, "/health")
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def port():
    with serving("--max-tokens", "400", "--timeout", "60") as (port, _):
        yield port


def get(port, path):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def post(port, body, path="/v1/completions"):
    body = body if isinstance(body, bytes | str) else json.dumps(body)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def alone(prompt, count, **settings):
    """The text that `refgss generate` makes."""
    checkpoint = load_checkpoint(BUNDLED)
    session, tokenizer = Session(checkpoint), load_tokenizer(checkpoint.tokenizer)
    session.prefill([[tokenizer.separator]])
    session.prefill(tokenizer.encode(prompt.encode())[None])
    return b"".join(generate(session, tokenizer, count, sampling=Sampling(**settings))).decode()


def test_the_official_client_reads_whole_answers_and_streams(port):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    assert [m.id for m in client.models.list()] == ["bundled"]
    asked = {"model": "bundled", "prompt": "def mean(x):", "max_tokens": 30, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=2)
    expected = alone("def mean(x):", 30, temperature=0)
    assert whole.choices[0].text == expected and whole.usage.completion_tokens == 30
    chances = whole.choices[0].logprobs
    assert len(chances.token_logprobs) == 30 and chances.tokens[0] in chances.top_logprobs[0]
    pairs = zip(chances.text_offset, chances.tokens, strict=True)
    assert all(expected[i:].startswith(t) for i, t in pairs)
    pieces = [*client.completions.create(**asked, stream=True)]
    assert "".join(p.choices[0].text for p in pieces) == expected
    assert pieces[-1].choices[0].finish_reason == "length"
    with pytest.raises(openai.NotFoundError, match="has the model bundled"):
        client.completions.create(model="other", prompt="x")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_reads_events(port):
    body = '{"prompt": "class A", "max_tokens": 5, "stream": true}'
    url = f"http://127.0.0.1:{port}/v1/completions"
    said = subprocess.run(["curl", "-sN", url, "-d", body], capture_output=True, text=True).stdout
    events = [line.removeprefix("data: ") for line in said.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert all(json.loads(e)["object"] == "text_completion" for e in events[:-1])


def test_several_prompts_are_answered_each_as_alone(port):
    prompts = ["import os", "for i in range(", "é"]
    status, found = post(port, {"prompt": prompts, "max_tokens": 12, "seed": 3})
    texts = {c["index"]: c["text"] for c in found["choices"]}
    assert status == 200
    assert texts == {i: alone(p, 12, seed=3) for i, p in enumerate(prompts)}


def test_a_stop_string_ends_the_text_before_it(port):
    text = alone("def mean(x):", 60, temperature=0)
    stop = text[10:13]
    _, found = post(
        port, {"prompt": "def mean(x):", "max_tokens": 60, "temperature": 0, "stop": [stop]}
    )
    choice = found["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_a_beginning_that_comes_again_is_not_read_again(port):
    def cached():
        said = get(port, "/metrics")[1]
        return int(re.search(r'prompt_tokens_total\{from="cache"\} (\d+)', said)[1])

    shared = "x = 1  # " + "a long beginning " * 70  # 1,199 bytes: states after 512 and 1,024
    first = post(port, {"prompt": shared + "one", "max_tokens": 8, "temperature": 0})
    before = cached()
    again = post(port, {"prompt": shared + "one", "max_tokens": 8, "temperature": 0})
    assert cached() - before == len(shared) + 3
    assert again[1]["choices"] == first[1]["choices"]
    post(port, {"prompt": shared + "two", "max_tokens": 1})
    assert cached() - before == len(shared) + 3 + 1024


BAD = {
    "not json": (b"{", 400, "not JSON"),
    "latin-1": (b'{"prompt": "\xff"}', 400, "not JSON"),
    "a list": ([], 400, "object"),
    "deep": ("[" * 5000 + "]" * 5000, 400, "not JSON"),
    "unknown": ({"promt": "x"}, 400, "no field promt"),
    "escape": ({"\x1b[31m": 1}, 400, "no field"),
    "type": ({"prompt": 5}, 400, "prompt must be a text or a list"),
    "bool": ({"prompt": "x", "max_tokens": True}, 400, "max_tokens must be an integer"),
    "many": ({"prompt": "x", "max_tokens": 401}, 400, "from 0 to 400"),
    "negative": ({"prompt": "x", "max_tokens": -1}, 400, "from 0 to 400"),
    "temperature": ({"prompt": "x", "temperature": -1}, 400, "temperature"),
    "top_p": ({"prompt": "x", "top_p": 0}, 400, "top_p"),
    "seed": ({"prompt": "x", "seed": -1}, 400, "seed"),
    "token": ({"prompt": [1, 257]}, 400, "tokens below 257"),
    "mixed": ({"prompt": ["x", 5]}, 400, "a prompt is a text"),
    "none": ({"prompt": [[], "x"] * 20}, 400, "from 1 to 16 prompts"),
    "stop": ({"prompt": "x", "stop": [""]}, 400, "stop"),
    "n": ({"prompt": "x", "n": 2}, 400, "n can only be 1"),
    "logprobs": ({"prompt": "x", "logprobs": 21}, 400, "from 0 to 20"),
    "model": ({"prompt": "x", "model": "gpt"}, 404, "has the model bundled"),
    "large": (b'{"prompt": "' + b"x" * 9 * 2**20 + b'"}', 413, "more than"),
    "long": ({"prompt": "x" * 1_000_001}, 413, "more than 1000000 tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_one_sentence(port, name):
    body, status, said = BAD[name]
    try:
        found, answer = post(port, body)
    except (BrokenPipeError, ConnectionResetError):  # it answers before it has read all
        assert status == 413
        return
    assert found == status and said in answer["error"]["message"]
    assert "\x1b" not in answer["error"]["message"]
    assert post(port, {"prompt": "x", "max_tokens": 1})[0] == 200


def test_unknown_paths_and_methods(port):
    assert get(port, "/v1/nothing")[0] == 404
    assert get(port, "/v1/completions")[0] == 405
    assert post(port, {}, "/health")[0] == 405


def streams(port):
    return json.loads(get(port, "/health")[1])["streams"]


def eventually(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def opened(port, body):
    """A connection that has sent a request and reads nothing."""
    body = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_client_that_leaves_asked_for_is_not_computed(port, stream):
    connection = opened(port, {"prompt": "x", "max_tokens": 400, "stream": stream})
    connection.close()
    eventually(lambda: streams(port) == 0)


def test_a_client_that_does_not_read_stalls_nobody():
    with serving("--timeout", "5", "--max-tokens", "100000") as (port, _):
        asked = {"prompt": "x", "max_tokens": 100_000, "stream": True, "logprobs": 20}
        with opened(port, asked), opened(port, asked):
            began = time.monotonic()
            assert post(port, {"prompt": "x", "max_tokens": 20})[0] == 200
            assert time.monotonic() - began < 5
            eventually(lambda: streams(port) == 0)  # after their time
            assert post(port, {"prompt": "x", "max_tokens": 1})[0] == 200


def test_too_many_are_told_to_come_again():
    with serving("--max-requests", "1", "--max-tokens", "100000") as (port, _):
        with opened(port, {"prompt": "x", "max_tokens": 100_000, "stream": True}):
            eventually(lambda: streams(port) == 1)
            status, answer = post(port, {"prompt": "x", "max_tokens": 1})
            assert (status, "busy" in answer["error"]["message"]) == (503, True)


def test_64_clients_at_once_leave_nothing_behind():
    with serving() as (port, process):

        def files():
            return len(os.listdir(f"/proc/{process.pid}/fd"))

        post(port, {"prompt": "x", "max_tokens": 1})
        before, found = files(), []
        expected = alone("x", 16, temperature=0)
        asked = {"prompt": "x", "max_tokens": 16, "temperature": 0}
        clients = [
            threading.Thread(target=lambda: found.append(post(port, asked))) for _ in range(64)
        ]
        for c in clients:
            c.start()
        for c in clients:
            c.join()
        assert {(s, a["choices"][0]["text"]) for s, a in found} == {(200, expected)}
        assert len(found) == 64
        eventually(lambda: files() <= before + 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_what_is_open_is_answered(number):
    with serving("--max-tokens", "100000", "--grace", "0.5") as (port, process):
        with opened(port, {"prompt": "x", "max_tokens": 100_000, "stream": True}):
            eventually(lambda: streams(port) == 1)
            process.send_signal(number)
            assert process.wait(30) in (0, 128 + number, 130)
            said = process.stderr.read()
            assert "Traceback" not in said, said


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "refgss", "serve", "--port", str(port)],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2 and "choose another --host or --port" in done.stderr


def test_the_clients_of_its_page_work_as_written():
    pytest.importorskip("openai")
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    _, command = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    with serving("--name", "my") as (port, _):
        at = f"127.0.0.1:{port}"
        for run in ([sys.executable, "-c", program], ["sh", "-c", command]):
            if not shutil.which(run[0]) or (run[0] == "sh" and not shutil.which("curl")):
                continue
            run = [word.replace("127.0.0.1:8000", at) for word in run]
            done = subprocess.run(run, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout, done.stderr
