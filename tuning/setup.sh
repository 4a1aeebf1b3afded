# source it: our environment, as /tmp/v, of the image's packages that are in our lock, and of those that were carried
test -e /tmp/v/bin/python || { python3 -m venv --without-pip /tmp/v; S=$(echo /tmp/v/lib/python3*/site-packages); tar -C $S -xJf .gpu/app.tar.xz; python3 tuning/venv.py /tmp/v 
/tmp/v/bin/python -m compileall -q -j 16 $S app ci jingxiang tests > /dev/null 2>&1; for d in $S/*; do test -L $d && /tmp/v/bin/python -m compileall -q -j 16 $(readlink -f $d) > /dev/null 2>&1; done; }
P=/tmp/v/bin/python; date +%s
