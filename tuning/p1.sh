set -x
# Where an adoption's time goes, and the imports of a worker: about 330 s
mkdir -p /tmp/site; tar -C /tmp/site -xJf .gpu/app.tar.xz; export PYTHONPATH=/tmp/site; P=$(which python3); S=$($P -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# What our lock has not got, and transformers and diffusers import if it is there (a second or two of each start):
$P -m pip uninstall -q -y scikit-learn scipy torchvision torchaudio peft onnx onnxscript onnxruntime timm sentence-transformers jax jaxlib opencv-python-headless > /dev/null 2>&1; date +%s
$P -m compileall -q -j 16 /tmp/site app ci jingxiang tests $S > /dev/null 2>&1; date +%s
timeout 240 $P tuning/p1.py /tmp/b/0 i2vgen-xl make > $OUT/make.txt 2>&1; date +%s
for how in plain pruned serial plain; do timeout 60 $P tuning/p1.py /tmp/b/0 i2vgen-xl $how > $OUT/$how.txt 2>&1; date +%s; done
X='import torch; import app.adapters.i2vgen_xl; from diffusers import I2VGenXLPipeline'
for i in 1 2; do $P -X importtime -c "$X" 2> /tmp/imp; done; sort -t'|' -k2 -n -r /tmp/imp | head -60 > $OUT/imports.txt; sort -t: -k2 -n -r /tmp/imp | head -40 >> $OUT/imports.txt; date +%s
grep -hE "ADOPTED|first|again|files|MB|\{" $OUT/make.txt $OUT/plain.txt $OUT/pruned.txt $OUT/serial.txt
