set -x
# Within 30 s after b2x1.sh, on the machine that it has left warm: the two other models, and memory as long as there is time.
export PYTHONPATH=/tmp/site; P=$(which python3)
timeout 440 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 390 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s
timeout 70 $P -m ci.bench.memory --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/mem0.json 2>/tmp/mem0.log; date +%s
tail -c 4000 $OUT/log1.txt
