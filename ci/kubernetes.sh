#!/usr/bin/env bash
# A control plane of Kubernetes for the tests, built from Debian's own source package (1.20: the newest that Debian has):
# API server and controllers, into DIR. Takes nine minutes on two cores and 3 GB of /tmp; what is there already is kept.
#
#   ci/kubernetes.sh DIR
#
# Needs go, golang-github-modern-go-reflect2-dev and apt-get with sources (ci/check.sh installs them).
set -euo pipefail
mkdir -p "$1"
out=$(realpath -- "$1")
if [ -x "$out/kube-apiserver" ] && [ -x "$out/kube-controller-manager" ]; then
  exit 0
fi
work=$(mktemp -d /tmp/jingxiang-kubernetes-XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT

# Lists of sources in a place of their own: the machine's settings stay as they are.
mkdir -p "$work/lists/partial" "$work/source"
cp -r /etc/apt "$work/apt"
sed -i 's/^Types: deb$/Types: deb deb-src/' "$work"/apt/sources.list.d/*.sources 2>/dev/null || true
sed -i 's/^deb \(.*\)$/deb \1\ndeb-src \1/' "$work"/apt/sources.list 2>/dev/null || true
settings=(-qq -o "Dir::Etc=$work/apt" -o "Dir::State::lists=$work/lists" -o APT::Sandbox::User=root)
apt-get "${settings[@]}" update
(cd "$work/source" && apt-get "${settings[@]}" source --download-only kubernetes)

export GO111MODULE=off GOPATH="$work/go" GOCACHE="$work/cache" GOFLAGS=
tree="$GOPATH/src/k8s.io/kubernetes"
mkdir -p "$tree"
tar -xzf "$work"/source/kubernetes_*.orig.tar.gz --strip-components 1 -C "$tree"
# The copy in the tree crashes with Go 1.18 and later.
reflect2=vendor/github.com/modern-go/reflect2
rm -f "$tree/$reflect2"/*.go "$tree/$reflect2"/*.s
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go /usr/share/gocode/src/github.com/modern-go/reflect2/*.s \
  "$tree/$reflect2"
cd "$tree"
# The one generated file that the source package lacks.
go build -o "$work/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
touch "$work/header"
marked=$(grep -rl --include='*.go' '^// +k8s:openapi-gen=' pkg cmd plugin staging/src/k8s.io |
  grep -v -e zz_generated -e _test.go -e /testdata/ -e code-generator -e sample- | xargs -n 1 dirname | sort -u |
  sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e '/^k8s.io/!s#^#k8s.io/kubernetes/#' | paste -sd ,)
"$work/openapi-gen" -O zz_generated.openapi -h "$work/header" -i "$marked" \
  -p k8s.io/kubernetes/pkg/generated/openapi -r "$work/violations" --output-base "$GOPATH/src"
for name in kube-apiserver kube-controller-manager; do
  go build -o "$out/$name.part" "k8s.io/kubernetes/cmd/$name"
  mv "$out/$name.part" "$out/$name"
done
