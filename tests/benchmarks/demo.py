"""How fast the page of notebook 06 answers in a browser, and whether play leaves anything behind.

    python -m tests.benchmarks.demo [--minutes 10] [--rounds 3] [--moves 15]

The page is served as ``make demo`` serves it and driven in Chromium. The first picture is timed from opening the page,
with the kernel that waits for it ready; a preview and a final picture from the key that moves a slider to their
appearance, by the browser's clock. Memory is that of the server and its kernels, every half minute of scripted play.
Written to ``figures/benchmarks/demo.json``, with how busy the machine was.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
from playwright.sync_api import Page, sync_playwright

from .measure import save_results

OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
PICTURE = "() => document.querySelector('img.sedm-picture')?.naturalWidth >= 64"
IDLE = """() => document.querySelector(".sedm-busy:not(.sedm-on)")
    && /steps,/.test(document.querySelector(".sedm-status").innerText)"""
CLOCK = """() => {
    window.pictures = 0;
    const image = document.querySelector("img.sedm-picture");
    new MutationObserver(() => { window.pictures += 1; }).observe(image, { attributes: true });
    addEventListener("keydown", () => { window.seen = { start: performance.now() }; }, true);
    new MutationObserver(() => {
        const words = document.querySelector(".sedm-status")?.innerText || "", seen = window.seen;
        if (seen && words.startsWith("preview") && !seen.preview) seen.preview = performance.now() - seen.start;
        if (seen?.preview && words.includes("steps,")) seen.final ||= performance.now() - seen.start;
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
PLAY_SEED = 0
EVERY = 30  # seconds between two looks at the memory


def serve(log: Path) -> tuple[subprocess.Popen, str]:
    """The server, with a kernel that waits for a page, and the page's address."""
    command = [sys.executable, "-m", "sedm", "demo", "--no-browser", "--port", "8970"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    while "is filled" not in log.read_text():
        time.sleep(0.2)
    time.sleep(20)  # until the cells of the waiting kernel have run
    return server, re.search(r"http://127\S+", log.read_text()).group()


def first_picture(page: Page, address: str) -> float:
    """Seconds from opening the page to its first picture."""
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function(PICTURE, timeout=120_000, polling=50)
    return time.perf_counter() - start


def moves(page: Page, n: int) -> dict[str, list[float]]:
    """Seconds to the preview and to the final picture, each time the weight of style B is moved."""
    page.wait_for_function(IDLE, timeout=120_000)
    page.evaluate(CLOCK)
    page.locator(".sedm-row .noUi-handle").nth(-3).focus()  # of four weights the second
    seconds = {"preview": [], "final": []}
    for _ in range(n):
        page.keyboard.press("ArrowRight")
        seen = page.wait_for_function("() => window.seen.final && window.seen", timeout=120_000).json_value()
        for name, found in seconds.items():
            found.append(seen[name] / 1000)
        page.wait_for_function(IDLE, timeout=120_000)
    return seconds


def play(page: Page, server: psutil.Process, minutes: float) -> list[float]:
    """MiB of the server and its kernels, every ``EVERY`` seconds, while controls are used at random."""
    chance, memory, start = random.Random(PLAY_SEED), [], time.monotonic()
    canvas = page.locator(".sedm-canvas canvas")
    while time.monotonic() - start < 60 * minutes:
        if time.monotonic() - start >= EVERY * len(memory):
            memory.append(sum(process.memory_info().rss for process in [server, *server.children(True)]) / 2**20)
        what = chance.randrange(5)
        if what == 0:
            page.get_by_role("button", name="Next").click()
        elif what == 1:
            canvas.click(position={"x": chance.randrange(280), "y": chance.randrange(280)})
        elif what == 2:
            page.locator(".sedm-plane button").nth(chance.randrange(20)).dispatch_event("click")
        elif what == 3:
            page.get_by_role("button", name="New noise").click()
        else:
            page.locator(".sedm-row .noUi-handle").nth(-3).focus()
            page.keyboard.press(chance.choice(["ArrowRight", "ArrowLeft", "PageUp", "PageDown"]))
        page.wait_for_timeout(chance.choice([100, 500, 2500]))
    assert page.get_by_role("alert").count() == 0
    return memory


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of play")
    parser.add_argument("--rounds", type=int, default=3, help="times that the page is opened")
    parser.add_argument("--moves", type=int, default=15, help="of a slider")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        server, address = serve(Path(folder) / "log")
        try:
            browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
            opened = []
            for _ in range(given.rounds):
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                opened.append(first_picture(page, address))
                seconds = moves(page, given.moves)
                if len(opened) < given.rounds:
                    page.close()
                    time.sleep(20)  # until the next kernel waits
            memory = play(page, psutil.Process(server.pid), given.minutes)
            n_pictures = page.evaluate("window.pictures")
            browser.close()
        finally:
            server.terminate()
            server.wait()
    results = {
        "seconds": {"first picture": opened, **seconds},
        "median_seconds": {"first picture": median(opened), **{name: median(of) for name, of in seconds.items()}},
        "memory_mib": memory,
        "memory_grown_mib": memory[-1] - memory[min(2, len(memory) - 1)],
        "minutes_of_play": given.minutes,
        "n_pictures": n_pictures,
        "load_average": list(os.getloadavg()),
    }
    print(results["median_seconds"], memory)
    print(save_results("demo", results))


if __name__ == "__main__":
    main()
