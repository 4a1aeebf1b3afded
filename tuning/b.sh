set -x
pip install -q --no-index --no-deps --target /tmp/site .gpu/whl/*.whl; export PYTHONPATH=/tmp/site
mkdir -p /tmp/b/0 /tmp/b/1
E_LIMIT=75 timeout 110 python tuning/e4.py > /tmp/e4.txt 2>&1; tail -c 2500 /tmp/e4.txt
date +%s
P=$(which python3)
one() { CUDA_VISIBLE_DEVICES=0 timeout 345 $P -m ci.bench.gpu --folder /tmp/b/0 --model i2vgen-xl --out $OUT/gpu0.json --limit 310 --commit $1 --json 2>$OUT/log0.txt >/dev/null; date +%s
 CUDA_VISIBLE_DEVICES=0 timeout 70 python tuning/look.py i2vgen-xl /tmp/b/0 > /tmp/look0.txt 2>&1; cat /tmp/look0.txt $OUT/adopt-i2vgen-xl.txt $OUT/step-i2vgen-xl.txt >> $OUT/log0.txt; rm -f $OUT/adopt-* $OUT/step-*; date +%s
 CUDA_VISIBLE_DEVICES=0 PATH=/nonexistent CC=/nonexistent /usr/bin/timeout 60 $P -m ci.bench.speed.alone i2vgen-xl /tmp/b/0/models /tmp/b/0/artifacts > /tmp/nocc.txt 2>&1; tail -c 400 /tmp/nocc.txt
 CUDA_VISIBLE_DEVICES=0 timeout 60 $P -m ci.bench.memory --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/mem0.json 2>/tmp/mem0.log; date +%s; }
two() { CUDA_VISIBLE_DEVICES=1 timeout 430 $P -m ci.bench.gpu --folder /tmp/b/1 --model svd-xt --model animatediff --out $OUT/gpu1.json --limit 380 --commit $1 --json 2>$OUT/log1.txt >/dev/null; date +%s
 CUDA_VISIBLE_DEVICES=1 timeout 100 $P -m ci.bench.memory --folder /tmp/b/1 --model svd-xt --model animatediff --commit $1 --json > $OUT/mem1.json 2>/tmp/mem1.log; date +%s; }
one $1 & two $1 &
wait
sed -i "s#/tmp/b/models#/tmp/b/0/models#; s#/tmp/b/artifacts#/tmp/b/0/artifacts#" tuning/two.py
cd tuning; PYTHONPATH=/tmp/site:..:. timeout 80 $P two.py; cd ..
tail -c 2500 $OUT/log1.txt; head -c 4200 $OUT/log0.txt
