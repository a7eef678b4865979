#!/usr/bin/env python3
"""load.py URL DEVICE [REQUESTS [THREADS]]: sends a picture to the painter many times.

Prints requests a second, and the median and the 95th percentile in milliseconds. Fails where an
answer is no picture of the right size, or was not computed on a device whose name has DEVICE in it.
"""

import concurrent.futures
import io
import statistics
import sys
import time
import urllib.error
import urllib.request

import numpy
from PIL import Image


def picture(width: int = 1600, height: int = 1200) -> bytes:
    """A hilly landscape under a sun, with grain as of a camera."""
    y, x = numpy.mgrid[0:height, 0:width] / height
    sky = numpy.stack([0.95 - 0.6 * y, 0.65 - 0.1 * y, 0.45 + 0.4 * y], -1)
    sun = numpy.exp(-(((x - 0.9) ** 2 + (y - 0.3) ** 2) / 0.01))[..., None] * numpy.array([1, 0.8, 0.3])
    image = sky + sun
    for k, color in enumerate([(0.35, 0.40, 0.55), (0.22, 0.38, 0.36), (0.12, 0.28, 0.16)]):
        ridge = 0.55 + 0.13 * k + 0.06 * numpy.sin(x * (5 + 3 * k) + 2 * k) + 0.02 * numpy.sin(x * 31 + k)
        image = numpy.where((y > ridge)[..., None], numpy.array(color), image)
    image = image + numpy.random.default_rng(1).normal(0, 0.04, image.shape)
    out = io.BytesIO()
    Image.fromarray((image.clip(0, 1) * 255).astype("uint8")).save(out, "JPEG", quality=90)
    return out.getvalue()


def main() -> int:
    url, device = sys.argv[1:3]
    requests, threads = (int(word) for word in (sys.argv[3:] + ["100", "8"])[:2])
    data = picture()

    def once(_: int) -> tuple[float, float]:
        began = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(url + "/stylise", data=data), timeout=60) as answer:
            body, name, took = answer.read(), answer.headers["X-Device"], float(answer.headers["X-Milliseconds"])
        assert device in name, name
        assert Image.open(io.BytesIO(body)).size == (1600, 1200)
        return (time.perf_counter() - began) * 1e3, took

    # The first request compiles and loads kernels.
    for i in range(3):
        once(i)
    for bad, status in ((b"no picture", 415), (b"", 415), (b"x" * (21 << 20), 413)):
        try:
            urllib.request.urlopen(urllib.request.Request(url + "/stylise", data=bad), timeout=60)
            print(f"{len(bad)} bytes of no picture were accepted")
            return 1
        except urllib.error.HTTPError as e:
            assert e.code == status, (len(bad), e.code)
        except ConnectionError:
            # The server answered and closed before the whole body was sent.
            assert status == 413
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        times = list(pool.map(once, range(requests)))
    rate = requests / (time.perf_counter() - began)
    whole, device_ms = sorted(t[0] for t in times), [t[1] for t in times]
    print(
        f"{rate:.1f} requests a second; {statistics.median(whole):.0f} ms each, 95 % below "
        f"{whole[int(len(whole) * 0.95)]:.0f} ms; {statistics.median(device_ms):.1f} ms of it on the device"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
