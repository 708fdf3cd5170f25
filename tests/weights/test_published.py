"""Published weights and URLs: downloaded once, whole and checked, or one line; nothing here needs a network."""

import contextlib
import hashlib
import http.server
import re
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from commands import assert_one_line_error, run

from efficientnet import create_model
from efficientnet.weights import WeightsError, published
from efficientnet.weights.conventions import published_name
from efficientnet.weights.load import export_state_dict, read_weights
from efficientnet.weights.names import find_names
from efficientnet.weights.published import PUBLISHED, URLS, find_file
from efficientnet.weights.recognise import recognise_library


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` by path; a path that ends in /half.pth breaks off."""

    def do_GET(self):
        self.server.requests.append(self.path)
        content = self.server.content.get(self.path.partition("?")[0])
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path.endswith("/half.pth") else content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(content):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests = content, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return create_model("b0", padding="symmetric", batch_norm_eps=1e-5, batch_norm_momentum=0.1)


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    """The bytes of a file of timm."""
    path = tmp_path_factory.mktemp("timm") / "weights.pth"
    torch.save(export_state_dict(model, "timm"), path)
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return tmp_path / "home" / "hub" / "checkpoints"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_published_name_is_downloaded_once_checked_and_recognised(model, content, cache, monkeypatch):
    name = f"efficientnet_b0_ra-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "timm:efficientnet_b0.ra_in1k", name)
    with serving({f"/{name}": content}) as server:
        monkeypatch.setitem(URLS, "timm", f"{server.url}/")
        for _ in range(2):
            found = create_model(weights="timm:efficientnet_b0.ra_in1k")
        assert server.requests == [f"/{name}"]
    assert torch.equal(found.classifier.weight, model.classifier.weight)
    assert (found.provenance.file, found.provenance.library, found.provenance.variant) == (name, "timm", "b0")
    assert found.provenance.normalisation_known
    assert files(cache) == [name]


def test_torchvision_is_its_imagenet1k_v1_of_the_variant(model, cache, tmp_path, monkeypatch):
    cache.mkdir(parents=True)
    for architecture, name in (("b0", "efficientnet_b0.imagenet1k_v1"), ("resnet50", "resnet50.imagenet1k_v1")):
        peer = create_model(architecture, padding="symmetric", batch_norm_eps=1e-5)
        torch.save(export_state_dict(peer, "torchvision"), cache / PUBLISHED[f"torchvision:{name}"])
        found = create_model(architecture, num_classes=2, weights="torchvision")
        assert torch.equal(found.stem.conv.weight, peer.stem.conv.weight)
        assert found.provenance.variant == architecture
    assert torch.equal(create_model(found.stages, weights="torchvision").stem.conv.weight, peer.stem.conv.weight)
    for arguments in ({}, {"name_or_stages": [*found.stages[:2], *found.stages[-2:]]}):
        with pytest.raises(
            WeightsError, match=r"name the network with --variant, or use torchvision:efficientnet_b3\.imagenet1k_v1"
        ):
            create_model(**arguments, weights="torchvision")


def test_names_that_are_not_in_the_table_are_answered_with_those_that_are(cache):
    with pytest.raises(WeightsError, match=r"timm:efficientnet_b3\.ra2_in1k.*huggingface\.co/timm"):
        find_file("timm:efficientnet_b3.ra_in1k")
    with pytest.raises(WeightsError, match=r"torchvision:efficientnet_b8\.imagenet1k_v1"):
        find_file("torchvision", "b8")


def test_urls_are_kept_by_their_place_so_that_equal_names_do_not_meet(model, content, cache):
    """A folder of the URL with a published name tells the family, as on Hugging Face."""
    paths = (
        "/timm/efficientnet_b0.ra_in1k/resolve/main/model.safetensors",
        "/timm/me/model.safetensors",
        "/weights.pth",
        "/b0-step-00050000.pt",  # a number, not a hash
    )
    with serving(dict.fromkeys(paths, content)) as server:
        found = create_model(weights=server.url + paths[0])
        assert (found.provenance.library, found.provenance.variant) == ("timm", "b0")
        assert torch.equal(found.classifier.weight, model.classifier.weight)
        with pytest.raises(WeightsError, match="specify source"):
            read_weights(server.url + paths[1])
        for query in ("", "?version=1", "?version=2", "?version=2"):
            find_file(server.url + paths[2] + query)
        find_file(server.url + paths[3])
        assert len(server.requests) == 6
    assert len(files(cache)) == 6 and not any(".." in name for name in files(cache))


def test_a_url_cannot_name_a_place_outside_of_the_cache(content, cache):
    with serving({"/a/../../../../x.pth": content}) as server:
        path = find_file(f"{server.url}/a/../../../../x.pth")
    assert path.resolve().is_relative_to(cache.resolve()) and files(cache) == [str(path.relative_to(cache))]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/absent.pth", "HTTP Error 404"),
        ("/half.pth", "damaged, truncated"),
        ("/page.pth", "a different format"),
        ("/b0-0123abcd.pth", r'expected "0123abcd"'),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing_and_one_line(path, words, content, cache):
    served = {"/half.pth": content, "/page.pth": b"<html>sign in</html>", "/b0-0123abcd.pth": content}
    with serving(served) as server:
        with pytest.raises(WeightsError, match=words) as caught:
            create_model(weights=server.url + path)
        message = str(caught.value)
        assert message.startswith(server.url + path) and str(cache) in message and "\n" not in message
    assert files(cache) == []


def test_without_a_network_the_commands_say_so_in_one_line(cache, monkeypatch):
    with socket.socket() as held:  # a port that nobody listens to
        held.bind(("127.0.0.1", 0))
        url = "http://{}:{}".format(*held.getsockname())
        monkeypatch.setitem(URLS, "timm", f"{url}/")
        for arguments in (
            ("efficientnet.weights", "info", f"{url}/x.pth"),
            ("efficientnet.weights", "info", "timm:efficientnet_b3.ra2_in1k"),
            ("train.py", "--weights", "timm:efficientnet_b3.ra2_in1k", "--dry-run"),
        ):
            assert_one_line_error(run(*arguments), 1, url, "Connection refused", "or place it at", str(cache))
    assert files(cache) == []


def test_a_file_url_is_the_file_itself(content, cache, tmp_path):
    (tmp_path / "a b").mkdir()
    path = tmp_path / "a b" / "tf_efficientnet_b0_ap-f262efe1.pth"
    path.write_bytes(content)
    provenance = read_weights(path.as_uri()).provenance
    assert (provenance.library, provenance.mean[0]) == ("timm_tf", 0.5)
    assert not cache.exists()
    with pytest.raises(WeightsError, match="no such file"):
        read_weights((tmp_path / "absent.pth").as_uri())


def test_another_process_of_the_machine_waits_for_the_first(content, cache, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with serving({"/weights.pth": content}) as server:
        path = cache / server.url.removeprefix("http://").replace(":", "_") / "weights.pth"
        path.parent.mkdir(parents=True)
        timer = threading.Timer(0.5, path.write_bytes, [content])
        timer.start()
        assert find_file(f"{server.url}/weights.pth") == path
        assert server.requests == []
        timer.join()
        path.unlink()
        monkeypatch.setattr(published, "PATIENCE", 0.3)
        started = time.monotonic()
        assert find_file(f"{server.url}/weights.pth") == path and time.monotonic() - started > 0.3
        assert server.requests == ["/weights.pth"]


# The table


def test_every_published_name_tells_family_and_hash():
    for name, file in PUBLISHED.items():
        library, _, model = name.partition(":")
        assert published.HASH.search(file), file
        if library == "timm":
            family = "timm_tf" if model.startswith("tf_") else "timm"
            assert recognise_library(Path(file), find_names("timm", "mbconv"), "b0", None) == family
            assert published_name(Path(file))


def test_the_table_is_that_of_timm():
    timm = pytest.importorskip("timm")
    expected = {}
    for name in timm.list_models(pretrained=True):
        url = timm.get_pretrained_cfg(name).url
        if re.match(r"(tf_)?efficientnet_(b\d|l2|lite\d)\.", name) and url:
            expected[f"timm:{name}"] = url.replace("rwightman", "huggingface")  # where GitHub redirects
    assert {name: URLS["timm"] + file for name, file in PUBLISHED.items() if name.startswith("timm:")} == expected


def test_the_table_is_that_of_torchvision():
    models = pytest.importorskip("torchvision").models
    names = [*(f"efficientnet_b{number}" for number in range(8)), "mobilenet_v2", "resnet50"]
    expected = {
        f"torchvision:{name}.{weights.name.lower()}": weights.url
        for name in names
        for weights in models.get_model_weights(name)
    }
    table = {name: URLS["torchvision"] + file for name, file in PUBLISHED.items() if name.startswith("torchvision:")}
    assert table == expected
