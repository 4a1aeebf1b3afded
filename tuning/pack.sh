# Here, in the project's root: .gpu/app.tar.xz, all that the app needs and the device's image lacks, for its Python 3.12 (two minutes).
# The wheels are 81 MB, of which 64 MB may travel: what only browsers ask for is left out.
set -e
python=.jingxiang/environments/$(ls .jingxiang/environments | grep dev | head -1)/bin/python
rm -rf .gpu; mkdir -p .gpu/whl .gpu/site; grep -q '^/.gpu/$' .git/info/exclude || echo /.gpu/ >> .git/info/exclude
for name in annotated-types av brotli diffusers fastapi gradio gradio-client groovy hf-gradio importlib-metadata itsdangerous nvidia-ml-py \
  opentelemetry-api orjson pydantic pydantic-core pydub python-json-logger python-multipart pytz safehttpx semantic-version sqlalchemy starlette \
  tomlkit typing-inspection uvicorn; do
  wanted="$wanted $(grep -oE "^$name==[^ ]+" envs/locks/cuda13.txt)"
done
many='manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64'
$python -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
  $(printf -- '--platform %s ' $many) -d .gpu/whl $wanted torchmetrics lightning-utilities
for wheel in .gpu/whl/*.whl; do unzip -qo "$wheel" -d .gpu/site; done
rm -rf .gpu/whl .gpu/site/gradio/templates/frontend/static/ffmpeg .gpu/site/gradio/templates/node .gpu/site/gradio/media_assets
tar -C .gpu/site -c . | xz -T0 -6 > .gpu/app.tar.xz; rm -rf .gpu/site; ls -l .gpu/app.tar.xz
