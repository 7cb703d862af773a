"""What tests of several packages share: image files, a tiny BLIP, an endpoint on this machine, and small heads."""

import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SMALL_HEAD = {
    "width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1,
}  # fmt: skip


@pytest.fixture
def small_heads(monkeypatch):
    """Give heads over words and cells defaults with which they are trained in a second.

    Returns a function that gives them others.
    """
    from pydantic import create_model

    from rank_xmodal.scorers.local.heads import HEADS

    def change(**values):
        for name, head in HEADS.items():
            fields = {key: (head.Settings.model_fields[key].annotation, value) for key, value in values.items()}
            settings = create_model(head.Settings.__name__, __base__=head.Settings, **fields)
            monkeypatch.setitem(HEADS, name, type(head.__name__, (head,), {"Settings": settings}))

    change(**SMALL_HEAD)
    return change


@pytest.fixture(scope="session")
def image_files(tmp_path_factory):
    """Return the paths of eight small images of several kinds."""
    import numpy as np
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = [folder / f"{row}.{kind}" for row, kind in enumerate(["png", "jpeg", "gif", "webp", "bmp"] + 3 * ["png"])]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    return list(map(str, paths))


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory):
    """Return the folder of a BLIP with its matching head, of random weights."""
    import torch

    from rank_xmodal.torchvision_ops import make_importable

    transformers = pytest.importorskip("transformers")
    make_importable()
    folder = tmp_path_factory.mktemp("blip")
    pieces = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{piece}" for piece in pieces)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "encoder_hidden_size": 32, "max_position_embeddings": 24, "bos_token_id": 2,
            "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}  # fmt: skip
    config = transformers.BlipConfig(
        text_config={**sizes, **text}, vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BlipForImageTextRetrieval(config).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


class RerankServer:
    """A rerank endpoint.

    Attributes
    ----------
    url : str
    asked : list of dict
        The bodies of all requests.
    headers : list of dict
    answer : callable
        From a body to status and answer, bytes or what JSON can hold; a test may set another.
    pause : float
        Seconds between the bytes of an answer.
    """

    def __init__(self):
        self.asked, self.headers, self.answer, self.pause = [], [], self.relevance, 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.headers.append(dict(self.headers))
                status, answer = outer.answer(body)
                sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    if status in (301, 302, 307):
                        self.send_header("Location", outer.url + "/elsewhere")
                    self.send_header("Content-Length", str(len(sent)))
                    self.end_headers()
                    step = 1 if outer.pause else max(len(sent), 1)
                    for start in range(0, len(sent), step):
                        self.wfile.write(sent[start : start + step])
                        threading.Event().wait(outer.pause)
                except OSError:  # who asked has gone
                    pass

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/rerank"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @staticmethod
    def of(query, document):
        """Return the relevance that `relevance` gives a pair, from 0 to 1."""
        return zlib.crc32(json.dumps([query, document]).encode()) / 2**32

    def relevance(self, body):
        """Answer as a model would: any score, but always the same; best first, as servers do."""
        scores = [self.of(body["query"], document) for document in body["documents"]]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return 200, {"results": [{"index": place, "relevance_score": scores[place]} for place in order]}

    def slow(self, body):
        """Answer after a second."""
        threading.Event().wait(1.0)
        return self.relevance(body)


@pytest.fixture
def rerank_server(monkeypatch):
    """Return a rerank endpoint on 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = RerankServer()
    yield server
    server.server.shutdown()
    server.server.server_close()
