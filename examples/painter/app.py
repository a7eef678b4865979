"""Turns a photograph into an oil painting, on the GPU.

    GET  /         a page to upload a picture
    POST /stylise  the bytes of a picture in, a JPEG out; X-Device and X-Milliseconds tell where and
                   how long it was computed
    GET  /health   a computation on the device

Where PyTorch has no GPU the service refuses to start: a container that lost its GPU would
otherwise serve from the CPU, a hundred times slower, and nobody would notice. ALLOW_CPU=1 permits
the CPU.
"""

import asyncio
import io
import os
import pathlib
import time

import numpy
import torch
import torch.nn.functional as F
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image, UnidentifiedImageError

MAX_BYTES = 20 << 20
MAX_PIXELS = 40_000_000
# A longer side is scaled down to this.
MAX_SIDE = 2048
# Pictures that are painted at once; each takes some 300 MB of the device's memory.
AT_ONCE = asyncio.Semaphore(4)


def choose_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("ALLOW_CPU") == "1":
        return torch.device("cpu")
    built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
    if torch.version.cuda is None:
        built = f"PyTorch {torch.__version__} is a CPU build"
    raise SystemExit(
        f"no GPU: {built}, and torch.cuda.is_available() is False; "
        "fix: on the host run `nvoci doctor`, or set ALLOW_CPU=1"
    )


DEVICE = choose_device()
NAME = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "CPU"

app = FastAPI(title="painter")


def kuwahara(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Gives each pixel the mean of that neighbouring square whose colours vary least.

    `image` is 3 x height x width, from 0 to 1. Areas become flat strokes, and edges stay sharp.
    """
    _, height, width = image.shape
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")
    mean = F.avg_pool2d(padded, radius + 1, stride=1)
    variance = (F.avg_pool2d(padded**2, radius + 1, stride=1) - mean**2).sum(1, keepdim=True)
    # The four squares that have the pixel as a corner.
    corners = [(y, x) for y in (0, radius) for x in (0, radius)]
    means = torch.stack([mean[0, :, y : y + height, x : x + width] for y, x in corners])
    variances = torch.stack([variance[0, :, y : y + height, x : x + width] for y, x in corners])
    best = variances.argmin(0, keepdim=True).expand(1, 3, height, width)
    return means.gather(0, best)[0]


@torch.inference_mode()
def paint(image: torch.Tensor) -> torch.Tensor:
    for radius in (2, 4, 6, 4):
        image = kuwahara(image, radius)
    # Oil is more saturated than a photograph.
    grey = image.mean(0, keepdim=True)
    return (grey + 1.25 * (image - grey)).clamp(0, 1)


def stylise(data: bytes) -> tuple[bytes, float]:
    picture = Image.open(io.BytesIO(data))
    # The header gives the size: a picture that is too large is never decoded.
    if picture.width * picture.height > MAX_PIXELS:
        raise HTTPException(413, f"the picture has more than {MAX_PIXELS} pixels")
    picture = picture.convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    if min(picture.size) < 16:
        raise HTTPException(422, "a side of the picture has fewer than 16 pixels")
    pixels = torch.from_numpy(numpy.array(picture))
    began = time.perf_counter()
    painted = paint(pixels.to(DEVICE).permute(2, 0, 1).float() / 255)
    painted = (painted * 255).round().byte().permute(1, 2, 0).cpu()
    took = (time.perf_counter() - began) * 1e3
    out = io.BytesIO()
    Image.fromarray(painted.numpy()).save(out, "JPEG", quality=92)
    return out.getvalue(), took


@app.post("/stylise")
async def post_stylise(request: Request) -> Response:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"the picture has more than {MAX_BYTES} bytes")
    try:
        async with AT_ONCE:
            painted, took = await run_in_threadpool(stylise, bytes(data))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as e:
        raise HTTPException(415, "not a picture that can be read") from e
    except torch.cuda.OutOfMemoryError as e:
        raise HTTPException(503, "the GPU has no memory left") from e
    return Response(painted, media_type="image/jpeg", headers={"X-Device": NAME, "X-Milliseconds": f"{took:.1f}"})


@app.get("/health")
def health() -> dict:
    # A GPU that was taken away, or hangs, fails here.
    torch.ones(1, device=DEVICE).add_(1).item()
    return {"ok": True, "device": NAME}


@app.get("/")
def page() -> Response:
    text = pathlib.Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Response(text.replace("{{device}}", NAME), media_type="text/html")
