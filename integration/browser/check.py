"""Checks HTML files in a headless Chromium over the DevTools protocol: check.py PICTURES FILE...

Each file at 390 and 1280 pixels, light and dark: nothing is requested, nothing runs, nothing is wider than the
screen, every text has the contrast of WCAG AA, and the headings have an order. Chromium reads the protocol on
descriptor 3 and writes it to 4 (--remote-debugging-pipe), so no port is opened.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

SIZES = [(390, 844, True), (1280, 900, False)]

# Runs in the page: the widest overflow, and each text with too little contrast.
PROBE = r"""
(() => {
  const channel = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parse = text => { const m = text.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
    }
    return [255, 255, 255, 1];
  };
  document.querySelectorAll('details').forEach(d => { d.open = true; });
  const faults = [];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) faults.push('wider than the screen by ' + wide);
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walk.nextNode()) {
    const node = walk.currentNode, e = node.parentElement;
    if (!node.data.trim()) continue;
    texts++;
    const a = light(parse(getComputedStyle(e).color)) + 0.05, b = light(behind(e)) + 0.05;
    const ratio = a > b ? a / b : b / a;
    if (ratio < 4.5) faults.push('contrast ' + ratio.toFixed(2) + ': ' + node.data.trim().slice(0, 60));
    const size = parseFloat(getComputedStyle(e).fontSize);
    if (size < 12) faults.push('font of ' + size + ' px: ' + node.data.trim().slice(0, 60));
  }
  let last = 0;
  for (const h of document.querySelectorAll('h1, h2, h3, h4')) {
    const level = Number(h.tagName[1]);
    if (level > last + 1) faults.push('heading ' + level + ' after ' + last);
    last = level;
  }
  if (document.querySelectorAll('h1').length !== 1) faults.push('not one h1');
  if (!document.documentElement.lang || !document.title) faults.push('no language or title');
  if (document.querySelectorAll('script, img, iframe, object, embed, base, form, a, link').length)
    faults.push('an element of the image');
  for (const e of document.querySelectorAll('*'))
    for (const a of e.attributes) if (/^on|^src$|^href$/.test(a.name)) faults.push('attribute ' + a.name);
  const links = [...document.querySelectorAll('.chain > li')];
  if (links.length !== 4) faults.push('no chain of four');
  const broken = document.querySelectorAll('.broken').length;
  if (broken > 1 || links.some(l => l.classList.contains('fail')) !== (broken === 1)) faults.push('broken links: ' + broken);
  const dark = parse(getComputedStyle(document.body).backgroundColor)[0] < 128;
  return JSON.stringify({ faults, texts, dark, height: document.documentElement.scrollHeight });
})()
"""


class Browser:
    def __init__(self, profile):
        to_read, self.to = os.pipe()
        self.source, from_write = os.pipe()

        def descriptors():
            first, second = os.dup(to_read), os.dup(from_write)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
             f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=descriptors)
        os.close(to_read)
        os.close(from_write)
        self.rest, self.count, self.events, self.session = b"", 0, [], None

    def message(self):
        while b"\0" not in self.rest:
            more = os.read(self.source, 1 << 16)
            if not more:
                sys.exit("Chromium has ended")
            self.rest += more
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **parameters):
        self.count += 1
        request = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data):]
        while True:
            answer = self.message()
            if answer.get("id") == self.count:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, name):
        while True:
            if any(e.get("method") == name for e in self.events):
                return
            self.events.append(self.message())


def main(pictures, files):
    pathlib.Path(pictures).mkdir(parents=True, exist_ok=True)
    failed = False
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Network", "Runtime", "Log", "Accessibility"]:
            browser.call(f"{domain}.enable")
        for file in files:
            for width, height, mobile in SIZES:
                for scheme in ["light", "dark"]:
                    faults, probe = check(browser, file, width, height, mobile, scheme, pictures)
                    name = f"{pathlib.Path(file).stem} {width} {scheme}"
                    print(f"{name}: {probe['texts']} texts, {probe['height']} px", *faults, sep="\n  ")
                    failed |= bool(faults)
        browser.session = None
        browser.call("Browser.close")
        browser.process.wait(30)
    return 1 if failed else 0


def check(browser, file, width, height, mobile, scheme, pictures):
    browser.events.clear()
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=mobile, deviceScaleFactor=1)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Page.navigate", url=pathlib.Path(file).absolute().as_uri())
    browser.wait("Page.loadEventFired")
    picture = browser.call("Page.captureScreenshot", captureBeyondViewport=True,
                           clip=dict(x=0, y=0, width=width, height=min(page_height(browser), 8000), scale=1))
    path = pathlib.Path(pictures) / f"{pathlib.Path(file).stem}-{width}-{scheme}.png"
    path.write_bytes(base64.b64decode(picture["data"]))
    probe = json.loads(browser.call("Runtime.evaluate", expression=PROBE, returnByValue=True)["result"]["value"])
    faults = list(probe["faults"])
    if probe["dark"] != (scheme == "dark"):
        faults.append("the background is not of the scheme")
    requests = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    if len(requests) != 1:
        faults.append(f"requests: {requests}")
    for event in browser.events:
        if event.get("method") in ["Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded"]:
            faults.append(f"{event['method']}: {json.dumps(event['params'])[:300]}")
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = [n.get("role", {}).get("value") for n in tree if not n.get("ignored")]
    for role, least in [("heading", 3), ("main", 1), ("list", 1), ("listitem", 4)]:
        if roles.count(role) < least:
            faults.append(f"{roles.count(role)} of role {role}")
    return faults, probe


def page_height(browser):
    return browser.call("Page.getLayoutMetrics")["cssContentSize"]["height"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
