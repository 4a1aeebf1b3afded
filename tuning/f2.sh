set -x
export PYTHONPATH=/tmp/site; P=$(which python3)
timeout 440 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 385 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s
tail -c 3500 $OUT/log1.txt
