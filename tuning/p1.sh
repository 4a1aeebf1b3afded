set -x
# Where an adoption's time goes, and the imports of a worker: about 330 s
mkdir -p /tmp/site; tar -C /tmp/site -xJf .gpu/app.tar.xz; export PYTHONPATH=/tmp/site; P=$(which python3); S=$($P -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# What our lock has not got, and transformers and diffusers import if it is there (a second or two of each start):
$P -m pip uninstall -q -y scikit-learn scipy torchvision torchaudio peft onnx onnxscript onnxruntime timm sentence-transformers jax jaxlib opencv-python-headless > /dev/null 2>&1; date +%s
$P -m compileall -q -j 16 /tmp/site app ci jingxiang tests $S > /dev/null 2>&1; date +%s
timeout 240 $P tuning/p1.py /tmp/b/0 i2vgen-xl make > $OUT/make.txt 2>&1; date +%s
for how in plain sought serial plain; do timeout 60 $P tuning/p1.py /tmp/b/0 i2vgen-xl $how > $OUT/$how.txt 2>&1; date +%s; done
$P -c 'import glob, os, sys, time; fs = glob.glob(sys.argv[1] + "/torch/**/*.py", recursive=True)[:4000]
for title, f in (("stat", os.stat), ("open, read", lambda p: open(p, "rb").read())):
    t = time.time(); [f(p) for p in fs]; print(title, len(fs), "files:", round((time.time() - t) / len(fs) * 1e6), "us each")' $S | tee $OUT/files.txt
for g in enable disable; do $P -c "import gc; gc.$g(); import time; t = time.time(); import torch, app.adapters.i2vgen_xl; from diffusers import I2VGenXLPipeline; print('imports, gc.$g', round(time.time() - t, 2))"; done 2>/dev/null | tee -a $OUT/files.txt
X='import torch; import app.adapters.i2vgen_xl; from diffusers import I2VGenXLPipeline'
for i in 1 2; do $P -X importtime -c "$X" 2> /tmp/imp; done; sort -t'|' -k2 -n -r /tmp/imp | head -60 > $OUT/imports.txt; sort -t: -k2 -n -r /tmp/imp | head -40 >> $OUT/imports.txt; date +%s
grep -hE "ADOPTED|first|again|files|MB|\{" $OUT/make.txt $OUT/plain.txt $OUT/sought.txt $OUT/serial.txt
