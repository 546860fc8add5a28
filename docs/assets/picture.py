"""Draws the picture of the README, light and dark: `python docs/assets/picture.py`.

`interlock simulate --plot` draws the light one; the dark one is the same drawing in other colours.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMAND = (
    "simulate --agents 40 --think 0.1s-0.3s --seed 1 "
    "-p last-write-wins -p optimistic-3-tries -p interlock-update"
)
DARK = {  # colour of the light picture: colour of the dark one
    "#1f2933": "#e6edf3",
    "#000000": "#e6edf3",
    "#d5dbe3": "#3d444d",
    "#6f9fd8": "#4d7fbd",
    "#12805c": "#3fb98a",
    "#d7263d": "#f0616f",
    "#e08e0b": "#f0ad4e",
    "#ffffff": "#0d1117",
    "white": "#0d1117",
}


def main() -> None:
    """Write demo-light.svg and demo-dark.svg beside this file."""
    light = HERE / "demo-light.svg"
    program = Path(sys.executable).with_name("interlock")
    subprocess.run([program, *COMMAND.split(), "--plot", light], check=True)
    text = light.read_text(encoding="utf-8")
    text = re.sub(r" *<metadata>.*?</metadata>\n", "", text, flags=re.S)
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    light.write_text(text, encoding="utf-8")
    colours = re.compile("|".join(map(re.escape, DARK)))
    dark = colours.sub(lambda match: DARK[match[0]], text)
    dark = dark.replace("<svg ", f'<svg fill="{DARK["#000000"]}" ', 1)
    light.with_name("demo-dark.svg").write_text(dark, encoding="utf-8")


if __name__ == "__main__":
    main()
