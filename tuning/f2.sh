set -x
P=/tmp/v/bin/python; N=$(nvidia-smi -L | wc -l); mkdir -p /tmp/b/1/models; ln -s /tmp/b/0/models/i2vgen-xl /tmp/b/1/models/i2vgen-xl
more() { timeout 230 $P -m ci.bench.memory --folder /tmp/b/1 --commit $1 --json > $OUT/memory.json 2>$OUT/memory.txt; date +%s; timeout 90 $P tuning/blocks.py /tmp/b/0 i2vgen-xl > $OUT/blocks.txt 2>&1; date +%s; }
if test $N = 2; then CUDA_VISIBLE_DEVICES=1 more $1 & fi
CUDA_VISIBLE_DEVICES=0 timeout 440 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 385 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s
if test $N = 2; then wait; timeout 130 $P -m ci.bench.gpu --workers --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/workers.json 2> $OUT/workers.txt; date +%s; tail -c 1500 $OUT/workers.txt; else timeout 100 true; fi
tail -c 3500 $OUT/log1.txt; tail -c 1500 $OUT/blocks.txt; tail -5 $OUT/memory.txt | cut -c1-500
tar czf $OUT/old.tgz -C /tmp/b gpu0.json start.json log0.txt start.txt
