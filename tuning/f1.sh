set -x
export CUDA_VISIBLE_DEVICES=0; mkdir -p /tmp/b/0 /tmp/b/1; date +%s; . tuning/setup.sh > /tmp/setup.log 2>&1; date +%s; nvidia-smi -L
timeout 330 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 300 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s
timeout 220 $P -m ci.bench.start --gpu --folder /tmp/b/0 --commit $1 --json > $OUT/start.json 2>$OUT/start.txt; date +%s
cp $OUT/*.txt $OUT/*.json /tmp/b/; tail -c 2500 $OUT/log0.txt; tail -c 4000 $OUT/start.txt; cat $OUT/start.json
