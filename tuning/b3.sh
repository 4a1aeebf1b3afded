set -x
# Within 30 s after b2.sh, on the machine that it has left warm: the whole app's start, two workers against one, memory, no compiler.
export PYTHONPATH=/tmp/site; P=$(which python3)
CUDA_VISIBLE_DEVICES=0 timeout 200 $P -m ci.bench.start --gpu --folder /tmp/b/0 --commit $1 --json > $OUT/start.json 2>$OUT/start.txt; date +%s
timeout 180 $P -m ci.bench.gpu --workers --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/workers.json 2>$OUT/workers.txt; date +%s
CUDA_VISIBLE_DEVICES=0 PATH=/nonexistent CC=/nonexistent /usr/bin/timeout 60 $P -m ci.bench.speed.alone i2vgen-xl /tmp/b/0/models /tmp/b/0/artifacts > $OUT/nocc.txt 2>&1
CUDA_VISIBLE_DEVICES=0 timeout 100 $P -m ci.bench.memory --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/mem0.json 2>/tmp/mem0.log &
CUDA_VISIBLE_DEVICES=1 timeout 100 $P -m ci.bench.memory --folder /tmp/b/1 --model svd-xt --model animatediff --commit $1 --json > $OUT/mem1.json 2>/tmp/mem1.log &
wait; date +%s
cat $OUT/nocc.txt; tail -c 2500 $OUT/start.txt; cat $OUT/start.json; tail -c 1500 $OUT/workers.txt; cat $OUT/workers.json
