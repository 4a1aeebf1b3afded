set -x
# bash tuning/g.sh COMMIT: the profile that is missing, and the start again (its bar for a first video without artifacts is 1.02 now): about 400 s
export CUDA_VISIBLE_DEVICES=0; mkdir -p /tmp/b/0; date +%s; . tuning/setup.sh > /tmp/setup.log 2>&1; date +%s
timeout 300 $P -m ci.bench.gpu --profile --folder /tmp/b/0 --model i2vgen-xl --commit $1 --json > $OUT/profile.json 2> $OUT/profile.txt; date +%s; grep '^{' $OUT/profile.txt | cut -c1-600
timeout 220 $P -m ci.bench.start --gpu --folder /tmp/b/0 --commit $1 --json > $OUT/start.json 2>$OUT/start.txt; date +%s; tail -5 $OUT/start.txt
