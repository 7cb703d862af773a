"""A real server in a process of its own: ready, killed, started again, stopped."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
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


def test_a_request_that_never_ends_is_given_up_when_the_server_stops(place, start):
    process, address = start(place / "index", "--port", 0)
    with socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2])), timeout=20) as client:
        head = (
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        client.sendall(head)
        asked(address)  # it has been read by then
        process.send_signal(signal.SIGTERM)
        told = client.makefile("rb").read()
    assert process.wait(20) == 0
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b'{"error":"the server was stopped before it could answer."}' in told
    said = process.stderr.read()
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "stopped"


def test_who_looks_for_an_answer_once_all_is_sent_finds_it(place, start):
    _, address = start(place / "index", "--port", 0, "--rate", 0.1)  # one search
    form = "multipart/form-data; boundary=x"
    part = b"--x\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\n"
    for path, body, kind, status in (
        ("search", iter([part, *[b"0" * 2**20] * 11]), form, 413),
        ("search", b"0" * 11 * 2**20, form, 413),
        ("search", b"0" * 60 * 2**20, form, 413),
        ("search", b"0" * 9 * 2**20, form, 429),
        ("nowhere", b"0" * 9 * 2**20, form, 404),
    ):
        length = {"content-length": str(len(body))} if isinstance(body, bytes) else {"transfer-encoding": "chunked"}
        request = urllib.request.Request(f"{address}{path}", body, {"content-type": kind, **length}, method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert caught.value.code == status
        assert json.load(caught.value)["error"]


def test_a_body_that_never_ends_is_not_read_for_ever(place, start):
    _, address = start(place / "index", "--port", 0)
    with socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2])), timeout=20) as client:
        client.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(1_000):
                client.sendall(b"100000\r\n" + b"0" * 2**20 + b"\r\n")


def test_two_that_are_started_at_once_do_not_share_a_port(place):
    first = server.listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    second = server.listen("127.0.0.1", port)  # Linux lets two be bound as long as nobody listens
    with first:
        first.listen()
        with pytest.raises(UserError, match=rf"--port {port}: another program listens there already"):
            server.run(None, second, print)
    assert second.fileno() == -1


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
