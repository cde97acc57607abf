"""A program that misbehaves as it is told:  python hostile.py PLAN.

PLAN is a JSON list of [MOMENT, ACT] pairs; `draw` makes one.  Without an act for a moment the
program behaves, but for its answers, which are the inputs and so wrong.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time

plan = {}


def say(text):
    os.write(1, text.encode() if isinstance(text, str) else text)


def message(**fields):
    say(json.dumps(fields) + "\n")


# ---- Acts that may happen at any moment ---------------------------------------------------------


def daemon(keeps_streams):
    if os.fork():
        return
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    if not keeps_streams:
        os.closerange(0, 3)
    time.sleep(600)
    os._exit(0)


def respawning():
    """A process that lives on in ever new ones."""
    if os.fork():
        return
    os.setsid()
    for _ in range(2000):
        if os.fork():
            os._exit(0)
        time.sleep(0.01)
    os._exit(0)


def fill_stderr():
    for _ in range(2000):
        os.write(2, b"Warning: \x1b[31m this is no error\n" * 100)


ANY = {
    "sleeps": lambda: time.sleep(600),
    "exits": lambda: os._exit(7),
    "crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "ends by signal 40": lambda: os.kill(os.getpid(), 40),
    "stops itself": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kills its parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "stops its parent": lambda: os.kill(os.getppid(), signal.SIGSTOP),
    "ends its group": lambda: os.kill(0, signal.SIGTERM),
    "leaves a daemon": lambda: daemon(False),
    "leaves a daemon with its streams": lambda: daemon(True),
    "leaves ever new processes": respawning,
    "fills stderr": fill_stderr,
    "closes its input": lambda: os.close(0),
    "closes its output": lambda: os.close(1),
    "closes stderr": lambda: os.close(2),
    "takes all memory": lambda: bytearray(1 << 34),
    "says a huge line": lambda: say("x" * (1 << 21)),
    "says half a line": lambda: say('{"type":'),
    "says garbage": lambda: say(b"\xff\x00\x1b[2J\n" * 50),
    "says a deep line": lambda: say("[" * 500 + "]" * 500 + "\n"),
    "answers in advance": lambda: [message(type="done", case=i) for i in range(1, 2000)],
    "answers a negative case": lambda: message(type="done", case=-1),
    "answers a huge case": lambda: say('{"type":"done","case":1' + "0" * 400 + "}\n"),
    "says hello": lambda: message(type="hello", protocol=1),
    "fails": lambda: message(type="error", message="\x1b[31m[/red]\u202e\n" * 100),
}

# ---- Acts on the files of a case ----------------------------------------------------------------


def root_of(case):
    return os.path.dirname(os.path.dirname(case["outputs"]))


def replace_root(case):
    shutil.rmtree(root_of(case))
    os.symlink("/", root_of(case))


def many_files(case):
    for i in range(500):
        open(f"{os.path.dirname(case['outputs'])}/{i}", "w").close()


def write(case, content):
    with open(case["outputs"], "wb") as file:
        file.write(content)


def twice(case):
    entry = b'"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + entry + b"," + entry + b"}"
    write(case, len(header).to_bytes(8, "little") + header + b"xxxx")


def sparse(case):
    with open(case["outputs"], "wb") as file:
        file.truncate(1 << 29)


def bind(case):
    os.chdir(os.path.dirname(case["outputs"]))
    socket.socket(socket.AF_UNIX).bind("outputs")


def deep_inputs(case):
    os.unlink(case["inputs"])
    os.makedirs(case["inputs"] + "/" + "d/" * 400)


NULL_METADATA = b'{"__metadata__": null}'
FILES = {
    "makes a pipe": lambda case: os.mkfifo(case["outputs"]),
    "links to zero": lambda case: os.symlink("/dev/zero", case["outputs"]),
    "links to itself": lambda case: os.symlink(case["outputs"], case["outputs"]),
    "links to the inputs": lambda case: os.symlink(case["inputs"], case["outputs"]),
    "makes a locked folder": lambda case: os.mkdir(case["outputs"], 0),
    "makes a socket": bind,
    "writes garbage": lambda case: write(case, b"\xff" * 100),
    "writes nothing": lambda case: write(case, b""),
    "writes a name twice": twice,
    "writes a huge file": sparse,
    "writes null metadata": lambda case: write(
        case, b"\x16" + bytes(7) + b'{"__metadata__": null}'
    ),
    "makes a folder of the inputs": deep_inputs,
    "removes the folder": lambda case: shutil.rmtree(os.path.dirname(case["outputs"])),
    "removes all folders": lambda case: shutil.rmtree(root_of(case)),
    "links the folder elsewhere": replace_root,
    "locks the folder": lambda case: os.chmod(root_of(case), 0),
    "makes many files": many_files,
}

GREETINGS = {
    "claims 60,000 names": {"ops": ["gelu", *(f"op{i}" for i in range(60_000))]},
    "claims nothing": {"ops": [], "profiles": []},
    "has a name of markup": {"name": "bad[/red]\x1b[31m\u202e\n[bold]", "ops": ["gelu", "[/x]"]},
    "speaks protocol 2": {"protocol": 2},
    "claims numbers": {"ops": [1, 2]},
}


def draw(rng):
    """A plan of one to three acts at different moments."""
    moments = rng.sample(["start", "greeting", "greeted", "asked", "outputs", "answered"], 3)
    acts = {"greeting": [*GREETINGS], "outputs": [*FILES]}
    return [[m, rng.choice(acts.get(m, [*ANY]))] for m in moments[: rng.randint(1, 3)]]


# ---- The program --------------------------------------------------------------------------------


def act(moment):
    if moment in plan:
        ANY[plan[moment]]()


def greet():
    claims = {"protocol": 1, "name": "hostile", "version": "1", "ops": ["gelu"]}
    claims |= {"profiles": ["f32"]} | GREETINGS.get(plan.get("greeting"), {})
    message(type="capabilities", **claims)
    act("greeted")


def answer(case):
    act("asked")
    if "outputs" in plan:
        FILES[plan["outputs"]](case)
    else:
        with open(case["inputs"], "rb") as file:
            write(case, file.read().replace(b'"x"', b'"y"'))
    message(type="done", case=case["case"])
    act("answered")


def main():
    plan.update(json.loads(sys.argv[1]))
    act("start")
    for line in sys.stdin:
        said = json.loads(line)
        if said["type"] == "bye":
            break
        greet() if said["type"] == "hello" else answer(said)


if __name__ == "__main__":
    main()
