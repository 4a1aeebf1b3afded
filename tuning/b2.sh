set -x
# What docs/benchmarks.md is written from, on main, with b3.sh right after it on the same machine: gpu0/1, then mem0/1, start, workers.
mkdir -p /tmp/site; tar -C /tmp/site -xJf .gpu/app.tar.xz; python3 -m compileall -q -j 16 /tmp/site app ci jingxiang; export PYTHONPATH=/tmp/site
mkdir -p /tmp/b/0 /tmp/b/1
P=$(which python3)
one() { CUDA_VISIBLE_DEVICES=0 timeout 400 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 350 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s; }
two() { CUDA_VISIBLE_DEVICES=1 timeout 470 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 420 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s; }
one $1 & two $1 &
wait
tail -c 2500 $OUT/log1.txt; tail -c 3500 $OUT/log0.txt
