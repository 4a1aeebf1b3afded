set -x
# On a machine of one card, instead of b2.sh; b3x1.sh within 30 s. I2VGen-XL, and the whole app's start with it.
mkdir -p /tmp/site; tar -C /tmp/site -xJf .gpu/app.tar.xz; python3 -m compileall -q -j 16 /tmp/site app ci jingxiang; export PYTHONPATH=/tmp/site
mkdir -p /tmp/b/0 /tmp/b/1; P=$(which python3)
timeout 370 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 330 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s
timeout 170 $P -m ci.bench.start --gpu --folder /tmp/b/0 --commit $1 --json > $OUT/start.json 2>$OUT/start.txt; date +%s
PATH=/nonexistent CC=/nonexistent /usr/bin/timeout 40 $P -m ci.bench.speed.alone i2vgen-xl /tmp/b/0/models /tmp/b/0/artifacts > $OUT/nocc.txt 2>&1; date +%s
cat $OUT/nocc.txt; tail -c 3500 $OUT/log0.txt; tail -c 2500 $OUT/start.txt; cat $OUT/start.json
