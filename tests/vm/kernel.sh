#!/usr/bin/env bash
# Prepares the guest's kernel, once, and prints the folder it lies in: vmlinuz, busybox, modules/, and
# `version`. Where it cannot be had: one sentence on stderr that says why, and status 77.
#
# It is Debian's own 6.12 kernel for clouds, unpacked and not installed. Its VFIO lacks no-IOMMU mode,
# iommufd and the device nodes of iommufd, so VFIO's modules are built once more, out of Debian's
# source package, with these three switched on.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
meta=linux-image-6.12-cloud-amd64
cache=${PAGODA_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pagoda/vm}
# What was made by another edition of this script is made anew. A new kernel of Debian's is no reason.
guest=$cache/$(sha256sum "$here/kernel.sh" | cut -c1-12)

unavailable() {
    echo "no guest kernel: $*" >&2
    exit 77
}

# Whole or absent: another caller waits for the lock, and finds what this one made.
[[ ! -e $guest ]] || { echo "$guest" && exit; }
mkdir -p "$cache" 2>/dev/null || unavailable "$cache cannot be made"
exec 9>"$cache/lock"
flock 9
[[ ! -e $guest ]] || { echo "$guest" && exit; }

for tool in apt-get dpkg-deb xz make gcc-12 strip; do
    command -v "$tool" >/dev/null || unavailable "there is no $tool (./dev setup installs it)"
done
rm -rf "$cache"/making.* # left by one that was killed
work=$(mktemp -d "$cache/making.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$cache/log
: >"$log"
echo "vm: preparing the guest's kernel, once, in $guest" >&2

field() { apt-cache show --no-all-versions "$meta" 2>>"$log" | sed -n "s/^$1: *//p"; }

# Sets `release`, the kernel's own name of its version, and downloads what belongs to it.
download() {
    local version base
    version=$(field Version) && release=$(field Depends | grep -o 'linux-image-[^ ,]*') || return
    release=${release#linux-image-}
    base=${release%-cloud-amd64}
    (mkdir -p "$work/debs" && cd "$work/debs" &&
        apt-get download -q -o Acquire::Retries=3 "linux-image-$release=$version" \
            "linux-headers-$release=$version" "linux-headers-$base-common=$version" \
            "linux-kbuild-$base=$version" "linux-source-6.12=$version" busybox-static) &>>"$log"
}

# The lists may be absent (a fresh image) or too old.
download || { ((EUID == 0)) && apt-get -qq update &>>"$log" && download; } ||
    unavailable "apt-get cannot download $meta and its source, see $log"

unpack() {
    local deb
    for deb in "$work"/debs/*.deb; do
        [[ $deb == */linux-source-* ]] || dpkg-deb -x "$deb" "$work/packages"
    done
    mkdir "$work/source"
    dpkg-deb --fsys-tarfile "$work"/debs/linux-source-*.deb |
        tar -xO ./usr/src/linux-source-6.12.tar.xz | xz -dc -T2 |
        tar -x -C "$work/source" --strip-components=1 --exclude=selftest.c linux-source-6.12/drivers/vfio \
            linux-source-6.12/drivers/iommu linux-source-6.12/lib/interval_tree.c
    rm -rf "$work/debs"
}

build_modules() {
    local headers=$work/packages/usr/src/linux-headers-$release iommufd=$work/source/drivers/iommu/iommufd
    local on=(IOMMUFD_MODULE IOMMUFD_DRIVER VFIO_DEVICE_CDEV VFIO_NOIOMMU INTERVAL_TREE_SPAN_ITER)
    # The packages expect to lie in /usr.
    echo "include ${headers%-cloud-amd64}-common/Makefile" >"$headers/Makefile"
    # Two parts of iommufd belong into the kernel's image, which is there already without them.
    {
        echo '#include <linux/interval_tree.h>'
        sed -n '/^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,/^#endif/p' "$work/source/lib/interval_tree.c" |
            grep -v EXPORT_SYMBOL
    } >"$iommufd/span_iter.c"
    sed -i '/^MODULE_/d' "$iommufd/iova_bitmap.c"
    echo 'iommufd-y += iova_bitmap.o span_iter.o' >>"$iommufd/Makefile"
    echo 'obj-m += drivers/iommu/iommufd/ drivers/vfio/' >"$work/source/Kbuild"
    rm -f "$headers/vmlinux" # or type information is wanted of each module
    make -C "$headers" M="$work/source" -j"$(nproc)" CONFIG_IOMMUFD=m CONFIG_VFIO_DEVICE_CDEV=y \
        KCFLAGS="-g0 $(printf -- '-DCONFIG_%s=1 ' "${on[@]}")" modules
}

assemble() {
    local stock=$work/packages/lib/modules/$release/kernel module
    mkdir -p "$work/guest/modules"
    cp "$work/packages/boot/vmlinuz-$release" "$work/guest/vmlinuz"
    cp "$work/packages/bin/busybox" "$work/guest/busybox"
    for module in virt/lib/irqbypass drivers/iommu/virtio-iommu; do
        xz -dc "$stock/$module.ko.xz" >"$work/guest/modules/${module##*/}.ko"
    done
    find "$work/source/drivers" -name '*.ko' -exec cp -t "$work/guest/modules" {} +
    strip --strip-debug "$work"/guest/modules/*.ko
    echo "$release" >"$work/guest/version"
}

for part in unpack build_modules assemble; do
    "$part" &>>"$log" & # where `||` stood beside it, bash would go on after an error inside
    wait $! || unavailable "$part of linux $release failed, see $log"
done
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} + # other editions
mv -T "$work/guest" "$guest"
echo "$guest"
