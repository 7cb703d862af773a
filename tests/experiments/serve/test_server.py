"""A real server in a process of its own: ready, killed, started again, stopped."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from experiments.serve import server
from experiments.serve.start import serve
from rank_xmodal.errors import UserError


@pytest.fixture
def start(place):
    """Return a function that starts the command and returns its process and address; all are ended at last."""
    begun = []

    def begin(*arguments):
        command = [sys.executable, "-m", "experiments.cli.main", "serve", *map(str, arguments), "--device", "cpu"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
        begun.append(process)
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready: "):
                return process, line.split()[1]
        raise AssertionError("".join(said))

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stderr.close()


def asked(address, text="a red square"):
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(f"{address}search", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_server_is_killed_and_started_again_and_stopped(place, start):
    first, address = start(place / "t2i", "--data", place / "set", "--port", 0)
    assert address.startswith("http://127.0.0.1:")
    before = asked(address)
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=rf"--port {port}: another program listens there already.*{port + 1}"):
        server.listen("127.0.0.1", port)
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    again, same = start(place / "index", "--port", port)
    assert same == address
    after = asked(address)
    assert [hit["id"] for hit in after["hits"]] == [hit["id"] for hit in before["hits"]]
    again.send_signal(signal.SIGTERM)
    assert again.wait(20) == 0
    assert again.stderr.read().splitlines()[-1] == "stopped"
    with pytest.raises(OSError, match="refused"):
        asked(address)


def test_ctrl_c_stops_it_with_nothing_but_a_word(place, start):
    process, address = start(place / "index", "--port", 0)
    asked(address)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr.read() == "stopped\n"


def test_answers_are_sent_at_once(place, start):
    """Headers and body are two packets: with Nagle's algorithm the second waits 40 ms for the client's word."""
    _, address = start(place / "index", "--port", 0)
    connection = http.client.HTTPConnection("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]), timeout=10)
    taken = []
    for _ in range(20):
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        taken.append(time.perf_counter() - begun)
    connection.close()
    assert min(taken[1:]) < 0.03


def test_an_address_that_cannot_be_used_is_said(place, capsys):
    with pytest.raises(UserError, match=r"--host 203\.0\.113\.1: can't listen there"):
        server.listen("203.0.113.1", 0)
    with pytest.raises(UserError, match="--rate -1: must be 0, for any number, or more"):
        serve([place / "index"], rate=-1)
    assert [server.is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_another_address_than_the_own_machine_is_warned_of(place, monkeypatch):
    said = []
    monkeypatch.setattr(server, "run", lambda app, bound, say: said.append(bound.getsockname()[0]))
    serve([place / "index"], port=0, host="0.0.0.0", device="cpu", say=said.append)
    assert said[0].startswith("--host 0.0.0.0: whoever reaches this machine can search the corpus")
    assert said[-1] == "0.0.0.0"
    said.clear()
    serve([place / "index"], port=0, device="cpu", say=said.append)
    assert said[-1] == "127.0.0.1"
    assert not [line for line in said if "whoever" in line]


def test_a_port_is_free_again_when_a_corpus_cannot_be_read(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError):
        serve([tmp_path / "nothing"], port=port)
    server.listen("127.0.0.1", port).close()


def test_without_the_extra_it_says_what_to_install(place, monkeypatch, run, capsys):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for name in [name for name in sys.modules if name.startswith("experiments.serve.")]:
        if name != "experiments.serve.start":
            monkeypatch.delitem(sys.modules, name)
    run("serve", place / "index", code=2)
    assert "pip install 'rank-xmodal[serve]'" in capsys.readouterr().err
