#!/bin/sh
# Builds kube-apiserver, kube-controller-manager and kube-scheduler from Debian's source
# package, offline but for the package itself: for `make test-kubernetes`, on a computer
# without Kubernetes. Needs root (packages), 5 GB of disk and an hour or less of two
# cores. Usage: control_plane.sh FOLDER; the binaries come to FOLDER/bin.
set -eu
folder=$(realpath -m "${1:?usage: control_plane.sh FOLDER}")
commands="kube-apiserver kube-controller-manager kube-scheduler"
built=yes
for name in $commands; do [ -x "$folder/bin/$name" ] || built=no; done
[ $built = no ] || exit 0

mkdir -p "$folder/source" "$folder/bin"
cd "$folder/source"
list=/etc/apt/sources.list.d/twinstep-source.list
if [ -f /etc/apt/sources.list.d/debian.sources ]; then
    list=/etc/apt/sources.list.d/twinstep-source.sources
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > $list
else
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list > $list
fi
trap 'rm -f $list' EXIT
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    golang-go dpkg-dev rsync jq make
apt-get source -q kubernetes
cd kubernetes-*/

# What Debian's own rules do, for three commands and without their tests.
export GOPATH="$PWD/.go" HOME="$folder" CGO_ENABLED=0 PATH="/usr/lib/go/bin:$PATH"
mkdir -p .go/src/k8s.io
[ -L .go/src/k8s.io/kubernetes ] || ln -s ../../.. .go/src/k8s.io/kubernetes
wanted=""
for name in $commands; do wanted="$wanted cmd/$name"; done
nice -n 19 make WHAT="$wanted"
for name in $commands; do cp -L "_output/bin/$name" "$folder/bin/"; done
