"""Programs that leave the protocol, each in its own way:  python rude.py MANNER."""

import json
import os
import sys
import time

import numpy as np
from safetensors.numpy import load_file, save_file

manner = sys.argv[1]


def say(**message):
    print(json.dumps(message), flush=True)


def hello():
    if manner == "mute":
        time.sleep(60)
    if manner == "dies at once":
        sys.exit("no such device")
    if manner == "speaks another protocol":
        return say(type="capabilities", protocol=2, name="x", version="", ops=[], profiles=["f32"])
    if manner == "greets with garbage":
        return print("Hello, world", flush=True)
    say(type="capabilities", protocol=1, name=manner, version="", ops=["gelu"], profiles=["f32"])


def gelu(message):
    case = message["case"]
    if manner == "prints garbage":
        return print("warming up the GPU", flush=True)
    if manner == "prints without end":
        while True:
            sys.stdout.write("x" * 65536)
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
    if manner == "hangs":
        time.sleep(60)
    if manner == "leaves":
        sys.exit("out of ideas")
    if manner == "is killed":
        os.kill(os.getpid(), 11)
    if manner == "holds too much":
        np.ones(1 << 30)
    x = load_file(message["inputs"])["x"]
    save_file({"y": x}, message["outputs"])
    say(type="done", case=case)


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "bye":
        break
    hello() if message["type"] == "hello" else gelu(message)
