"""An environment of what our lock names and this image has: python3 tuning/venv.py FOLDER"""
import importlib.metadata as m, os, re, subprocess, sys
from pathlib import Path
to = Path(sys.argv[1]); plain = lambda n: re.sub("[-_.]+", "-", n).lower()
lock = {plain(l.split("==")[0]) for l in open("envs/locks/cuda13.txt") if "==" in l} | {"pytest", "pluggy", "iniconfig", "torchmetrics", "lightning-utilities", "defusedxml"}
subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(to)], check=True)
site = next(to.glob("lib/python*/site-packages")); carried = {plain(d.metadata["Name"]) for d in m.distributions(path=[str(site)])}
n = 0
for d in m.distributions():
    name = plain(d.metadata["Name"] or "")
    if name not in lock or name in carried: continue
    home = Path(d.locate_file(""))
    if not (home / "torch").exists() and home.name != "site-packages": continue
    n += 1
    for top in {str(f).split("/")[0] for f in d.files or ()} - {"..", "__pycache__"} | {Path(d._path).name}:
        if top.endswith(".pth") or top.startswith("distutils-"): continue
        if not (site / top).exists() and (home / top).exists(): (site / top).symlink_to(home / top)
print(n, "packages,", sorted(lock - carried - {plain(d.metadata["Name"] or "") for d in m.distributions()}), "not here")
