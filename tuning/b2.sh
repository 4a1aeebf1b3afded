set -x
# What docs/benchmarks.md is written from: all on one commit and one machine. Files: gpu0/1, mem0/1, workers, logs
pip install -q --no-index --no-deps --target /tmp/site .gpu/whl/*.whl; export PYTHONPATH=/tmp/site
mkdir -p /tmp/b/0 /tmp/b/1
P=$(which python3)
one() { CUDA_VISIBLE_DEVICES=0 timeout 350 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 320 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s
 CUDA_VISIBLE_DEVICES=0 PATH=/nonexistent CC=/nonexistent /usr/bin/timeout 60 $P -m ci.bench.speed.alone i2vgen-xl /tmp/b/0/models /tmp/b/0/artifacts > $OUT/nocc.txt 2>&1
 CUDA_VISIBLE_DEVICES=0 timeout 60 $P -m ci.bench.memory --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/mem0.json 2>/tmp/mem0.log; date +%s; }
two() { CUDA_VISIBLE_DEVICES=1 timeout 420 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 370 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s
 CUDA_VISIBLE_DEVICES=1 timeout 90 $P -m ci.bench.memory --folder /tmp/b/1 --model svd-xt --model animatediff --commit $1 --json > $OUT/mem1.json 2>/tmp/mem1.log; date +%s; }
one $1 & two $1 &
wait
cd tuning; PYTHONPATH=/tmp/site:..:. timeout 75 $P two.py > $OUT/two.txt 2>&1; cd ..
cat $OUT/nocc.txt $OUT/two.txt; tail -c 2000 $OUT/log1.txt; tail -c 2000 $OUT/log0.txt
