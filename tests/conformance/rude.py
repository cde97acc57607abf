"""Programs that leave the protocol, each in its own way:  python rude.py MANNER [FILE]."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import load_file, save_file

from refgss.ops import OPS

manner = sys.argv[1]
TWICE = {  # what stands before the one tensor in the header of a file
    "writes a name twice": b'"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},',
    "writes metadata twice": b'"__metadata__":{"a":"1"},"__metadata__":{"a":"2"},',
    "writes a key of the metadata twice": b'"__metadata__":{"a":"1","a":"2"},',
    "writes no metadata": b'"__metadata__":null,',
}


def say(**message):
    print(json.dumps(message), flush=True)


def daemon():
    """Leave a process in a session of its own behind, and its number in the file."""
    if os.fork():
        return os.wait()
    os.setsid()
    if os.fork():
        os._exit(0)
    with open(sys.argv[2], "w") as file:
        file.write(str(os.getpid()))
    for stream in (0, 1, 2):
        os.close(stream)
    time.sleep(60)
    os._exit(0)


def hello():
    if manner == "mute":
        time.sleep(60)
    if manner == "dies at once":
        sys.exit("no such device")
    if manner == "speaks another protocol":
        return say(type="capabilities", protocol=2, name="x", version="", ops=[], profiles=["f32"])
    if manner == "greets with garbage":
        return print("Hello, world", flush=True)
    ops = list(OPS) if manner == "claims everything" else ["gelu"]
    if manner == "claims 60,000 ops":
        ops += [f"op{i}" for i in range(60000)]
    hello = dict(type="capabilities", protocol=1, name=manner, version="", ops=ops)
    if manner == "answers everything in advance":  # with its greeting, so that none is in time
        answers = [json.dumps(dict(type="done", case=case)) for case in range(1, 1000)]
        print(json.dumps(hello | {"profiles": ["f32"]}), *answers, sep="\n", flush=True)
    else:
        say(**hello, profiles=["f32"])
    if manner == "answers everything in advance":
        for case in range(1, 100_000):
            say(type="done", case=case)
    if manner == "never reads":
        time.sleep(60)


def gelu(message):
    case = message["case"]
    if manner == "claims everything":
        time.sleep(60)
    if manner == "marks":
        with open(sys.argv[2] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(file.name, sys.argv[2])
        time.sleep(60)
    if manner == "prints garbage":
        return print("warming up the GPU", flush=True)
    if manner == "prints without end":
        while True:
            sys.stdout.write("x" * 65536)
    if manner == "fills stderr":
        while True:
            sys.stderr.write("Warning: this is not an error\n" * 1000)
    if manner == "talks on stderr":
        sys.stderr.write("x" * (1 << 20))
    if manner == "closes its output":
        os.close(1)
        time.sleep(60)
    if manner == "leaves a child behind":
        subprocess.Popen(["sleep", "60"])
        sys.exit("out of ideas")
    if manner == "says NaN":
        return print('{"type": "done", "case": NaN}', flush=True)
    if manner == "colours its words":
        return say(type="error", case=case, message="\x1b[31mno\x1b[0m\nnot at all")
    if manner == "answers out of order":
        return say(type="done", case=case + 1)
    if manner == "sends an unknown message":
        return say(type="progress", case=case)
    if manner == "sends a case back":
        return say(**message)
    if manner == "writes no file":
        return say(type="done", case=case)
    if manner == "writes a damaged file":
        open(message["outputs"], "wb").write(b"\xff" * 100)
        return say(type="done", case=case)
    if manner == "makes a pipe of the file":
        os.mkfifo(message["outputs"])
        return say(type="done", case=case)
    if manner == "links its file to zero":
        os.symlink("/dev/zero", message["outputs"])
        return say(type="done", case=case)
    if manner == "makes folders of its files":
        os.unlink(message["inputs"])
        os.makedirs(message["inputs"] + "/" + "deep/" * 500)
        os.makedirs(message["outputs"], 0)
        return say(type="done", case=case)
    if manner == "removes the folder of its files":
        shutil.rmtree(os.path.dirname(message["outputs"]))
        return say(type="done", case=case)
    if manner == "removes every folder of its files":
        root = os.path.dirname(os.path.dirname(message["outputs"]))
        shutil.rmtree(root)
        open(root, "w").close()
        return say(type="done", case=case)
    if manner == "leaves a daemon behind":
        daemon()
    if manner == "kills its parent":
        os.kill(os.getppid(), 9)
        time.sleep(60)
    if manner == "stops its parent and itself":
        os.kill(os.getppid(), 19)
        os.kill(os.getpid(), 19)
    if manner == "ends its group":
        os.kill(0, 15)
    if manner == "ends by a signal without a name":
        os.kill(os.getpid(), 40)
    if manner in TWICE:
        entry = b'"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
        header = b"{" + TWICE[manner] + entry + b"}"
        open(message["outputs"], "wb").write(len(header).to_bytes(8, "little") + header + b"xxxx")
        return say(type="done", case=case)
    if manner == "writes bfloat16":
        header = b'{"y":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
        content = len(header).to_bytes(8, "little") + header + b"xx"
        open(message["outputs"], "wb").write(content)
        return say(type="done", case=case)
    if manner == "hangs":
        time.sleep(60)
    if manner == "leaves":
        sys.exit("out of ideas")
    if manner == "is killed":
        os.kill(os.getpid(), 11)
    if manner == "holds too much":
        np.ones(1 << 30)
    x = load_file(message["inputs"])["x"]
    if manner == "listens":
        with open(sys.argv[2], "a") as file:
            file.write(json.dumps([message, list(load_file(message["inputs"]))]) + "\n")
    save_file({"y": x}, message["outputs"])
    say(type="done", case=case)
    if manner == "answers twice":
        say(type="done", case=case)


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "bye":
        break
    hello() if message["type"] == "hello" else gelu(message)
