set -x
mkdir -p /tmp/site; tar -C /tmp/site -xJf .gpu/app.tar.xz; python3 -m compileall -q -j 16 /tmp/site app ci jingxiang; export PYTHONPATH=/tmp/site
mkdir -p /tmp/b/0 /tmp/b/1
E_LIMIT=95 timeout 130 python3 tuning/e4.py > /tmp/e4.txt 2>&1; tail -c 3500 /tmp/e4.txt
date +%s
P=$(which python3)
one() { CUDA_VISIBLE_DEVICES=0 timeout 340 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 300 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s
 CUDA_VISIBLE_DEVICES=0 timeout 75 $P tuning/look.py i2vgen-xl /tmp/b/0 > $OUT/look0.txt 2>&1; cat $OUT/step-i2vgen-xl.txt >> $OUT/look0.txt; rm -f $OUT/adopt-* $OUT/step-*; date +%s; }
two() { CUDA_VISIBLE_DEVICES=1 timeout 430 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 390 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s; }
one $1 &
[ "$(nvidia-smi -L | wc -l)" -gt 1 ] && two $1 &  # with one card b2x1.sh and b3x1.sh tell of these
wait
tail -c 2000 $OUT/log1.txt; tail -c 2000 $OUT/log0.txt; head -c 3500 $OUT/look0.txt
