set -x
mkdir -p /tmp/site; tar -C /tmp/site -xJf .gpu/app.tar.xz; export PYTHONPATH=/tmp/site; P=$(which python3); S=$($P -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# What our lock has not got, and transformers and diffusers import if it is there (a second or two of each start):
$P -m pip uninstall -q -y scikit-learn scipy torchvision torchaudio peft onnx onnxscript onnxruntime timm sentence-transformers jax jaxlib opencv-python-headless > /dev/null 2>&1; date +%s
$P -m compileall -q -j 16 /tmp/site app ci jingxiang tests $S > /dev/null 2>&1; date +%s
mkdir -p /tmp/b/0 /tmp/b/1
timeout 100 $P tuning/stress2.py > $OUT/stress.txt 2>&1 &
timeout 330 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 300 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s
timeout 190 $P -m ci.bench.start --gpu --folder /tmp/b/0 --commit $1 --json > $OUT/start.json 2>$OUT/start.txt; date +%s
cp $OUT/*.txt $OUT/*.json /tmp/b/; cat $OUT/stress.txt | cut -c1-200; tail -c 2500 $OUT/log0.txt; tail -c 2500 $OUT/start.txt; cat $OUT/start.json
