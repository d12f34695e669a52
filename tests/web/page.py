"""Uses the page as a person does; see tests/web/run."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
from chromium import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets"


class Server:
    """`pinhole serve` with a camera that shows one frame of the recorded scenes, until another is chosen."""

    def __init__(self, program, bundle, port=0):
        self.frames = [b"\xff\xd8" + part for part in (ASSETS / "scenes.mjpeg").read_bytes().split(b"\xff\xd8")[1:]]
        self.scene = self.frames[0]
        self.process = subprocess.Popen(
            [program, "serve", bundle, "--mjpeg", "-", "--listen", f"127.0.0.1:{port}", "--smoothing", "0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False)
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.url
        threading.Thread(target=self._feed, daemon=True).start()

    def _feed(self):
        try:
            while True:
                self.process.stdin.write(self.scene)
                self.process.stdin.flush()
                time.sleep(0.1)
        except OSError:
            pass

    def show(self, share):
        """Shows the frame at a share of the recording."""
        self.scene = self.frames[int(share * (len(self.frames) - 1))]

    def stop(self):
        self.process.terminate()
        assert self.process.wait(20) == 0, self.process.returncode


def answers(page, server):
    names = (ASSETS / "scenes.txt").read_text().split("\n")
    server.show(0.0)
    page.wait("state && state.answer && state.answer.state !== null")
    settle(page)
    first = page.text("#state")
    assert first in names, first
    page.wait("document.querySelector('#video').naturalWidth > 0")
    assert page.evaluate("document.querySelectorAll('#ranking li').length") == 8
    assert re.fullmatch(r"[\d.]+ ms", page.text("#latency"))
    server.show(0.5)
    page.wait(f"document.querySelector('#state').textContent !== {json.dumps(first)}")
    second = page.text("#state")
    assert second in names, second
    page.wait("document.querySelectorAll('#changes tr').length >= 2")
    page.wait("document.querySelectorAll('#strip rect').length >= 2")
    return first, second


def views(page):
    page.click("input[value=encoder]")
    page.wait("document.querySelector('#video').naturalWidth === 96")
    page.click("input[value=frame]")
    page.wait("document.querySelector('#video').naturalWidth > 96")


def region(page, touch):
    page.click("#draw")
    x, y, width, height = page.box("#overlay")
    corners = [(x + share * width, y + share * height) for share in (0.25, 0.5, 0.75)]
    if touch:
        page.touch("touchStart", *corners[0])
        page.touch("touchMove", *corners[1])
        page.touch("touchMove", *corners[2])
        page.touch("touchEnd")
    else:
        page.mouse("mousePressed", *corners[0])
        page.mouse("mouseMoved", *corners[1])
        page.mouse("mouseMoved", *corners[2])
        page.mouse("mouseReleased", *corners[2])
    page.wait("state.settings.region !== null")
    frame = page.evaluate("state.camera.frame_size")
    found = page.evaluate("state.settings.region")
    expected = [frame[0] / 4, frame[1] / 4, frame[0] / 2, frame[1] / 2]
    assert all(abs(a - b) <= 3 for a, b in zip(found, expected)), (found, expected)
    assert page.evaluate("Number(document.querySelector('#box').getAttribute('width'))") == found[2]
    # The same by numbers, which begin with what was drawn.
    page.click("#region-pixels summary")
    page.wait("document.querySelector('#region-hint').textContent.includes(state.camera.frame_size.join(' x '))")
    values = [int(page.evaluate(f"document.querySelector('#region-{i}').value")) for i in range(4)]
    assert values == found, (values, found)
    page.evaluate("document.querySelector('#region-0').select()")
    page.call("Input.insertText", text="1")
    page.press("Enter")
    page.wait("state.settings.region[0] === 1")
    page.click("#region-pixels summary")
    page.click("#whole")
    page.wait("state.settings.region === null")


def settings(page):
    page.evaluate("document.querySelector('#settings input[name=hysteresis]').focus()")
    page.evaluate("document.activeElement.select()")
    page.call("Input.insertText", text="3")
    page.press("Enter")
    page.wait("document.querySelector('#settings-status').textContent === 'Applied.'")
    page.wait("state.settings.hysteresis === 3")
    page.wait("document.querySelector('#keep').textContent.includes('--hysteresis 3')")
    assert "--min-similarity " in page.text("#keep")
    page.wait("document.querySelector('#log').textContent.includes('settings changed')")
    page.evaluate("call('PATCH', '/api/settings', JSON.stringify({hysteresis: 2}), 'application/json').then(() => 1)")
    page.wait("document.querySelector('#settings input[name=hysteresis]').value === '2'")


def choose(page, selector, path):
    """Chooses a file as in the browser's dialogue."""
    node = page.call("DOM.querySelector", nodeId=page.call("DOM.getDocument")["root"]["nodeId"], selector=selector)
    page.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)])


def file(page):
    choose(page, "#file", ASSETS / "samples/red-heart.png")
    page.wait("document.querySelector('#file-answer').textContent.startsWith('red heart')")


def row(name):
    """The class's row of the list, in JavaScript."""
    title = json.dumps(name)
    return f"[...document.querySelectorAll('#classes > li')].find(e => e.querySelector('strong').textContent === {title})"


def examples(page, name, count):
    page.wait(f"({row(name)} || {{ textContent: '' }}).textContent.includes('{count} example')")


def hold(page, name, touch, seconds=1.5):
    """Holds the button of a class."""
    page.evaluate(f"{row(name)}.querySelector('.hold').id = 'held'")
    x, y, width, height = page.box("#held")
    at = (x + width / 2, y + height / 2)
    if touch:
        page.touch("touchStart", *at)
    else:
        page.mouse("mousePressed", *at)
    time.sleep(seconds)
    if touch:
        page.touch("touchEnd")
    else:
        page.mouse("mouseReleased", *at)
    page.evaluate("document.querySelector('#held').removeAttribute('id')")
    page.wait("document.querySelector('#teach-status').textContent === 'Done.'")


def press(page, button):
    """Presses a button as a keyboard or a screen reader does, without holding it."""
    page.evaluate(f"{button}.focus()")
    page.evaluate(f"{button}.click()")


def hidden(page, server):
    """A tab in the background leaves the board alone, and is there again in front."""
    def connections():
        with urllib.request.urlopen(f"{server.url}metrics") as answer:
            text = answer.read().decode()
        return int(re.search(r"^pinhole_http_connections (\d+)$", text, re.M)[1])

    def show(visible):
        value = json.dumps(not visible)
        page.evaluate(f"Object.defineProperty(document, 'hidden', {{ value: {value}, configurable: true }})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    before = connections()
    show(False)
    end = time.monotonic() + 20
    while connections() > before - 2:
        assert time.monotonic() < end, f"{connections()} connections of {before}"
        time.sleep(0.2)
    show(True)
    page.wait("document.querySelector('#video').naturalWidth > 0")
    settle(page)


def add(page, name):
    page.evaluate("document.querySelector('#new-class').focus()")
    page.call("Input.insertText", text=name)
    page.press("Enter")
    page.wait(f"{row(name)} !== undefined")
    page.wait("document.querySelector('#new-class').value === ''")


def shows(page, server, share, expected):
    server.show(share)
    page.wait(f"document.querySelector('#state').textContent === {json.dumps(expected)}")


def settle(page):
    """Waits until the frames are of the scene that is shown now."""
    shown = page.evaluate("state.frames.read")
    page.wait(f"state.frames.read > {shown + 8}")


def teaching(page, server, scenes, touch):
    """Teaches two classes from the scenes, deletes one, and takes that back."""
    names = {0.0: "my thing", 0.5: "<b>your</b> \"thing\" / ü"}
    for share, name in names.items():
        server.show(share)
        add(page, name)
        settle(page)
        hold(page, name, touch)
        shows(page, server, share, name)
    for share, name in names.items():
        shows(page, server, share, name)
    # Of a reloaded page too.
    page.call("Page.reload")
    page.wait(f"document.querySelectorAll('#classes > li').length >= 66 && {row(names[0.0])} !== undefined")
    count = int(page.evaluate(f"{row(names[0.0])}.querySelector('.quiet').textContent.split(' ')[0]"))
    assert count >= 3, count
    page.evaluate(f"{row(names[0.0])}.querySelector('details').open = true")
    press(page, f"{row(names[0.0])}.querySelector('details button')")
    examples(page, names[0.0], count - 1)
    # The focus stays in its class, or goes to what is left.
    assert page.evaluate(f"{row(names[0.0])}.querySelector('details').contains(document.activeElement)")
    press(page, f"{row(names[0.5])}.querySelectorAll('button')[1]")
    page.wait(f"{row(names[0.5])} === undefined")
    assert page.evaluate("document.activeElement.id") == "new-class"
    page.wait(f"document.querySelector('#state').textContent !== {json.dumps(names[0.5])}")
    page.click("#undo")
    page.wait(f"{row(names[0.5])} !== undefined")
    shows(page, server, 0.5, names[0.5])
    page.click("#undo")
    examples(page, names[0.0], count)
    # As it was, for the next screen.
    for name in names.values():
        page.evaluate(f"{row(name)}.querySelectorAll('button')[1].click()")
        page.wait(f"{row(name)} === undefined")
    for share, scene in scenes.items():
        shows(page, server, share, scene)


def upload(page, server, folder):
    """Brings back a bundle as it was downloaded; a file that is none changes nothing."""
    archive = folder / "demo.tar"
    with urllib.request.urlopen(f"{server.url}api/bundle") as answer:
        archive.write_bytes(answer.read())
    add(page, "my thing")
    press(page, f"{row('my thing')}.querySelector('.hold')")
    page.wait(f"Number({row('my thing')}.querySelector('.quiet').textContent.split(' ')[0]) >= 3")
    assert page.errors() == []
    choose(page, "#archive", ASSETS / "samples/red-heart.png")
    page.click("#upload-form button")
    page.wait("document.querySelector('#upload-status').textContent.includes('expected a tar archive')")
    assert page.evaluate("document.querySelector('#upload-progress').hidden")
    assert page.evaluate(f"{row('my thing')} !== undefined")
    # Chromium reports the status itself.
    errors = page.errors()
    assert all("422" in error for error in errors), errors
    choose(page, "#archive", archive)
    page.evaluate("document.querySelector('#archive').focus()")
    page.press("Tab")
    page.press(" ", "Space")
    page.wait("document.querySelector('#upload-status').textContent.startsWith('In use now: ')")
    page.wait(f"{row('my thing')} === undefined")
    page.wait("document.querySelector('#log').textContent.includes('bundle exchanged')")


def keyboard(page):
    """Everything can be reached with Tab, and focus is visible."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    reached = set()
    for _ in range(48 + 3 * 64):
        page.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.textContent.trim()"))
    for name in ("Skip to the answer", "new-class", "Add class", "Hold to show", "draw", "whole", "view", "file", "smoothing", "min_margin", "Apply", "revert", "archive",
                 "Upload", "Download the bundle"):
        assert name in reached, f"{name}: not reached with Tab, of {sorted(reached)}"
    page.evaluate("document.querySelector('#draw').focus()")
    page.press(" ", "Space")
    assert page.evaluate("document.querySelector('#draw').getAttribute('aria-pressed')") == "true"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(" ", "Space")


def accessible(page, axe, where):
    if axe:
        # In the page's own world, which the policy for scripts does not bind.
        page.evaluate(axe.read_text() + ";1")
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
        assert found == [], f"{where}: {json.dumps(found, indent=1)}"
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{where}: {wide} pixels wider than the screen"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    bundle = shutil.copytree(ASSETS / "demo", Path(folder.name) / "demo")
    server = Server(arguments.program, str(bundle))
    browser = Browser()
    try:
        page = Page(browser)
        for name, width, height, mobile in (("desktop", 1200, 900, False), ("phone", 390, 844, True)):
            page.size(width, height, mobile)
            page.scheme("light")
            page.open(server.url)
            page.wait("document.querySelector('#connection').textContent === 'connected'")
            scenes = dict(zip((0.0, 0.5), answers(page, server)))
            print(name, scenes)
            teaching(page, server, scenes, mobile)
            views(page)
            region(page, mobile)
            settings(page)
            file(page)
            upload(page, server, Path(folder.name))
            hidden(page, server)
            if not mobile:
                keyboard(page)
            for scheme in ("light", "dark"):
                page.scheme(scheme)
                accessible(page, arguments.axe, f"{name}, {scheme}")
                if arguments.pictures and (name, scheme) in (("desktop", "dark"), ("phone", "light")):
                    page.picture(arguments.pictures / f"web-{name}-{scheme}.webp", width, 1000 if mobile else height)
            errors = page.errors()
            assert errors == [], errors
        page.call("Page.reload")
        page.wait("document.querySelector('#connection')?.textContent === 'connected'")
        page.wait("document.querySelector('#state').textContent !== '…'")
        errors = page.errors()
        assert errors == [], errors
        # The board restarts.
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
        server.stop()
        page.wait("document.querySelector('#connection').textContent.startsWith('no connection')")
        server = Server(arguments.program, str(bundle), port)
        page.wait("document.querySelector('#connection').textContent === 'connected'")
        page.wait("document.querySelector('#video').naturalWidth > 0")
        print("the page works")
    finally:
        browser.close()
        server.process.terminate()
        server.process.wait(20)
        folder.cleanup()


main()
