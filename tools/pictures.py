"""Makes the pictures of the manual: pages of `interlock serve` in Chromium, light and dark, on a
large screen and on a telephone.

    python tools/pictures.py [FOLDER]

The story is that of `docs/tutorial/4-watch-your-agents.md`.  Pictures have 256 colours, so that
each is below 150 kB.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import interlock

ASSETS = Path(__file__).parent.parent / "docs" / "assets"
LARGEST = 150_000  # bytes of a picture
PAGES = {
    "now": "/ui/travel",
    "key": "/ui/travel/key/booking/1",
    "conflicts": "/ui/travel/conflicts",
    "refused": "/ui/travel/refused/1",
}
SIZES = {1920: 1080, 390: 844}
RULES = {
    "booking/*": interlock.guarded(machine=interlock.BOOKING),
    "findings": interlock.merged("append"),
}


@contextmanager
def served(store: str) -> Iterator[str]:
    """Serve a store; yield the address."""
    command = [sys.executable, "-m", "interlock", "serve", store, "--bind", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield server.stderr.readline().strip().removeprefix("serving at ")
        finally:
            server.terminate()


def tell(url: str) -> None:
    """Have some agents work on a journey, and two of them meet."""
    with (
        interlock.open(url, "travel", "planner", rules=RULES) as planner,
        interlock.open(url, "travel", "critic") as critic,
        interlock.open(url, "travel", "researcher") as researcher,
    ):
        old = planner.create("booking/1", {"status": "PENDING", "seat": None, "guest": "Ada"})
        critic.update("booking/1", lambda booking: {**booking, "seat": "7C"})
        with suppress(interlock.Conflict):
            planner.write(old, {**old.value, "seat": "12A", "meal": "vegetarian"})
        for n in range(2, 7):
            made = planner.create(f"booking/{n}", {"status": "PENDING", "seat": f"{n}A"})
            critic.transition(made.key, "PENDING_PAYMENT")
            researcher.append("findings", {"source": f"paper {n}", "text": "Seats sell out early."})
            stale = critic.read("plan.md") if n > 2 else planner.create("plan.md", "# Plan")
            plan = planner.read("plan.md")
            planner.write(plan, f"{plan.value}\n- book seat {n}A")
            if n % 2:
                with suppress(interlock.Conflict):
                    critic.write(stale, "# Another plan")
            time.sleep(0.4)
        time.sleep(1.5)  # refusals are kept half a second late


def picture(shot: bytes) -> bytes:
    """Return a screenshot with fewer colours."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    few = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


def main(folder: Path) -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with served(f"sqlite:///{temporary}/team.db") as url:
            tell(url)
            for scheme in ("light", "dark"):
                for width, height in SIZES.items():
                    context = chromium.new_context(
                        base_url=url,
                        color_scheme=scheme,
                        viewport={"width": width, "height": height},
                        reduced_motion="reduce",
                    )
                    page = context.new_page()
                    for name, path in PAGES.items():
                        page.goto(path)
                        page.wait_for_timeout(2500 if name == "now" else 300)
                        file = folder / f"page-{name}-{scheme}-{width}.png"
                        file.write_bytes(picture(page.screenshot()))
                        size = file.stat().st_size
                        print(f"{file.name}: {size:,} bytes")
                        if size > LARGEST:
                            raise SystemExit(f"{file} has more than {LARGEST:,} bytes")
                    context.close()
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS)
