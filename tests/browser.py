#!/usr/bin/env python3
"""A report page in headless Chromium, driven through its debugging pipe; only the standard library is needed.

    browser.py CHROMIUM PAGE SHOW.json DIR

PAGE is index.html of a report of one run, SHOW.json what `spkv show --json` says of that run; pictures go to DIR. The names
of the run, its model, its corpus and the corpus itself are markup that would set window.pwned or make an element #pwned.
"""
import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile


class Browser:
    """Chromium with one page. Messages are JSON objects that end in a zero byte, on file descriptors 3 and 4."""

    def __init__(self, program, profile):
        command_read, self.commands = os.pipe()
        self.replies, reply_write = os.pipe()
        os.set_inheritable(command_read, True)
        os.set_inheritable(reply_write, True)
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec 3<&{command_read} 4>&{reply_write} && exec "$@"', "sh", program, "--headless=new",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "about:blank"],
            close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(command_read)
        os.close(reply_write)
        self.buffer, self.n_sent, self.session, self.events = b"", 0, None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def receive(self):
        while b"\0" not in self.buffer:
            more = os.read(self.replies, 1 << 20)
            if not more:
                raise SystemExit("chromium ended by itself")
            self.buffer += more
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.n_sent += 1
        message = {"id": self.n_sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.commands, data):]
        while True:
            reply = self.receive()
            if reply.get("id") == self.n_sent:
                if "error" in reply:
                    raise SystemExit(f"{method}: {reply['error']}")
                return reply["result"]
            self.events.append(reply)

    def run(self, expression):
        """The value of a JavaScript expression; a promise is waited for."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise SystemExit(f"{expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def frame(self):
        """Until what was done has been drawn, and its events have come."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.frame()

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)
        self.frame()

    def point(self, element, click=False):
        """Moves the pointer to the middle of an element, scrolled into view."""
        self.run(f"{element}.scrollIntoView({{block: 'center'}})")
        self.frame()
        box = self.run(f"(b => [b.left + b.width / 2, b.top + b.height / 2])({element}.getBoundingClientRect())")
        place = {"x": box[0], "y": box[1]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        self.frame()

    def picture(self, path, whole=True):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        self.process.terminate()
        self.process.wait(10)


n_checks = n_failed = 0


def check(what, found, expected=True):
    global n_checks, n_failed
    n_checks += 1
    if found != expected:
        n_failed += 1
        print(f"FAIL: {what}: found {found!r}, expected {expected!r}")


ARROWS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
BUBBLE = "(b => b.hidden ? null : b.textContent)(document.getElementById('value'))"
MAP = "document.querySelector('figure svg')"  # the first picture: density, or far attention


def said(layers, layer, head):
    value = layers[layer]["heads"][head]["long_range_density"]
    return f"layer {layer}, KV head {head}: {value:.4f}"


def check_values(browser, layers):
    n = len(layers[0]["heads"])
    names = browser.run(f"Array.from({MAP}.querySelectorAll('rect.mark'), e => e.getAttribute('aria-label'))")
    cells = [name for name in names if name.startswith("layer") and "all KV heads" not in name]
    check("every cell says its value", cells, [said(layers, l, k) for l in range(len(layers)) for k in range(n)])
    for layer, head in ((0, 0), (len(layers) - 1, n - 1), (1, n - 1)):
        browser.point(f"{MAP}.querySelectorAll('rect.mark')[{layer * n + head}]")
        check("hover", browser.run(BUBBLE), said(layers, layer, head))
    browser.picture(sys.argv[4] + "/hover.png", whole=False)
    browser.point("document.querySelector('h1')")
    check("no bubble elsewhere", browser.run(BUBBLE), None)


def check_keyboard(browser, layers):
    browser.run("document.activeElement.blur()")
    for _ in range(20):
        browser.press("Tab", 9)
        if browser.run("document.activeElement.classList.contains('mark')"):
            break
    check("Tab reaches the map", browser.run(BUBBLE), said(layers, 0, 0))
    for key, layer, head in (("ArrowRight", 0, 1), ("ArrowDown", 1, 1), ("ArrowDown", 2, 1), ("ArrowLeft", 2, 0),
                             ("ArrowUp", 1, 0)):
        browser.press(key, ARROWS[key])
        check(key, browser.run(BUBBLE), said(layers, layer, head))
    browser.picture(sys.argv[4] + "/focus.png", whole=False)
    browser.press("Escape", 27)
    check("Escape hides the bubble", browser.run(BUBBLE), None)
    browser.press("Tab", 9)
    check("a map is one stop", browser.run(f"{MAP}.contains(document.activeElement)"), False)
    browser.press("ArrowRight", ARROWS["ArrowRight"])
    names = browser.run(f"Array.from({MAP}.querySelectorAll('rect.mark'), e => e.getAttribute('aria-label'))")
    reached = browser.run(REACH)
    check("arrow keys reach every value", sorted(set(names) - set(reached)), [])


# All values that arrow keys reach from the first one, a search over real key events of the page's own script.
REACH = f"""(svg => {{
  let seen = new Set(), todo = [svg.querySelector('.mark')];
  while (todo.length) {{
    let mark = todo.pop();
    if (seen.has(mark)) continue;
    seen.add(mark);
    for (let key of ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']) {{
      mark.focus();
      mark.dispatchEvent(new KeyboardEvent('keydown', {{key: key, bubbles: true, cancelable: true}}));
      todo.push(document.activeElement);
    }}
  }}
  document.activeElement.blur();
  return Array.from(seen, mark => mark.getAttribute('aria-label'));
}})({MAP})"""


def check_strip(browser):
    strip = "document.querySelector('.strip')"
    token = f"{strip}.querySelectorAll('.mark')[1]"
    check("the text of a sequence is shown as it is",
          browser.run(strip + ".textContent.includes('<script>pwned = 2</script><img src=http:')"))
    kept = browser.run(token + ".dataset.v")
    browser.point(token)
    check("hover over a token", (browser.run(BUBBLE) or "").startswith(f"token 1: kept by {kept} of "))
    browser.run(token + ".focus()")
    browser.press("ArrowRight", ARROWS["ArrowRight"])
    check("arrow keys go on in the text", (browser.run(BUBBLE) or "").startswith("token 2: "))


def check_sorting(browser, layers):
    table = "Array.from(document.querySelectorAll('table.data')).find(t => t.caption.textContent.includes('KV head.'))"
    title = "long-range density"
    head = f"Array.from({table}.tHead.rows[0].cells).find(c => c.textContent === '{title}')"
    browser.run(f"{table}.closest('details') && ({table}.closest('details').open = true)")
    column = f"Array.from({table}.tBodies[0].rows, r => r.cells[{head}.cellIndex].dataset.v)"
    values = [h["long_range_density"] for l in layers for h in l["heads"]]
    check("the table is in the order of the heads", [float(v) for v in browser.run(column)], values)
    browser.point(f"{head}.querySelector('button')", click=True)
    check("a click sorts from high to low", [float(v) for v in browser.run(column)], sorted(values, reverse=True))
    check("and says so", browser.run(f"{head}.getAttribute('aria-sort')"), "descending")
    browser.run(f"{head}.querySelector('button').focus()")
    browser.press("Enter", 13, "\r")
    check("Enter sorts the other way", [float(v) for v in browser.run(column)], sorted(values))


def check_themes(browser, directory):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
    button = "document.getElementById('theme')"
    check("light by the reader's setting", browser.run(ground), light)
    browser.picture(directory + "/light.png")
    browser.prefer("dark")
    check("dark by the reader's setting", browser.run(ground), dark)
    check("the button offers light", browser.run(button + ".textContent"), "Light colours")
    browser.picture(directory + "/dark.png")
    browser.point(button, click=True)
    check("light by the button", browser.run(ground), light)
    browser.prefer("light")
    browser.point(button, click=True)
    check("dark by the button", browser.run(ground), dark)
    check("scroll bars and fields too", browser.run("getComputedStyle(document.documentElement).colorScheme"), "dark")
    browser.point(button, click=True)


def check_pictures(browser):
    check("every picture has an alternative text",
          browser.run("Array.from(document.images).every(i => i.alt.length > 20) &&"
                      "Array.from(document.querySelectorAll('svg')).every(s => s.getAttribute('aria-label'))"))
    check("every picture is drawn", browser.run("Array.from(document.images).every(i => i.naturalWidth > 100)"))
    check("every region has a name",
          browser.run("Array.from(document.querySelectorAll('.scroll')).every(r => r.getAttribute('aria-label'))"))


def check_markup_stays_text(browser):
    check("no script of a stranger ran", browser.run("typeof window.pwned"), "undefined")
    check("no element of a stranger", browser.run("document.querySelectorAll('[id=pwned], [onerror]').length"), 0)
    check("one script, ours", browser.run("document.scripts.length"), 1)
    check("the text is there", browser.run("document.body.textContent.includes('<b id=pwned>')"))


def check_narrow(browser, directory):
    browser.resize(360, 740)
    browser.frame()
    browser.picture(directory + "/narrow.png")
    check("nothing is wider than a narrow page", browser.run("document.scrollingElement.scrollWidth"), 360)


def check_silence(browser, url):
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    check("nothing is requested", [r for r in requests if r != url and not r.startswith("data:image/")], [])
    check("the page was", url in requests)
    complaints = [e["params"] for e in browser.events
                  if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")]
    check("the console is empty", complaints, [])


def main():
    program, page, show, directory = sys.argv[1:]
    layers = json.loads(pathlib.Path(show).read_text())["layers"]
    url = pathlib.Path(page).resolve().as_uri()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            browser.resize(1280, 900)
            browser.prefer("light")
            browser.open(url)
            check_themes(browser, directory)
            check_values(browser, layers)
            check_keyboard(browser, layers)
            check_strip(browser)
            check_sorting(browser, layers)
            check_pictures(browser)
            check_markup_stays_text(browser)
            check_narrow(browser, directory)
            check_silence(browser, url)
        finally:
            browser.close()
    print(f"{n_checks} checks, {n_failed} failed; pictures in {directory}")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
