#!/usr/bin/env bash
# Holds the AVX-512 kernels against the portable ones on an emulated processor (isa_check.cpp), in about two minutes.
#
#   BOCHS=bochs tests/emulate_avx512.sh [VMLINUZ]
#
# BOCHS: the emulator, which Debian builds without AVX; tried with 3.0, made with
#   ./configure --with-nogui --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-pci
#               --enable-long-phy-address --enable-all-optimizations
# VMLINUZ: a Linux kernel, by default the first in /boot. Debian's packages: bochsbios vgabios busybox-static isolinux
# syslinux-common xorriso cpio linux-image-amd64. Exit status 0: the kernels agree, and a planted fault is found.
set -euo pipefail
cd "$(dirname "$0")/.."
kernel=${1:-$(ls /boot/vmlinuz-* | head -n 1)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work"/initramfs/{bin,dev,proc} "$work"/disc
g++ -std=c++20 -O3 -static -pthread -fno-math-errno -ffp-contract=fast tests/isa_check.cpp csrc/core/plan.cpp \
  csrc/core/cells/list.cpp csrc/cpu/*.cpp -o "$work/initramfs/isa_check"
cp "$(command -v busybox)" "$work/initramfs/bin/busybox"
cat > "$work/initramfs/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/isa_check
echo "exit status $?"
/isa_check 1e-4 | /bin/busybox tail -n 1
/bin/busybox sleep 1  # until all is written
/bin/busybox poweroff -f
INIT
chmod +x "$work/initramfs/init"
(cd "$work/initramfs" && find . | cpio -o -H newc --quiet | gzip) > "$work/disc/initrd.gz"
cp "$kernel" "$work/disc/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disc/"
cat > "$work/disc/isolinux.cfg" <<'BOOT'
DEFAULT check
LABEL check
 KERNEL vmlinuz
 INITRD initrd.gz
 APPEND console=ttyS0 quiet mitigations=off lsm=capability lpj=4000000
BOOT
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
  -boot-info-table "$work/disc"

cat > "$work/bochsrc" <<BOCHS
cpu: model=corei7_skylake_x, count=1, ips=60000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
display_library: nogui
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/log
panic: action=fatal
clock: sync=none, time0=local
BOCHS
timeout 900 "${BOCHS:-bochs}" -q -f "$work/bochsrc" > "$work/screen" 2>&1 || true
tr -d '\r' < "$work/serial" | grep -a "cases\|off by\|exit status" > "$work/result" || true
cat "$work/result"
grep -q "^avx512, avx2, portable, portable_bf16: .* cases, 0 differences" "$work/result" && grep -q "^exit status 0" "$work/result" &&
  grep -q "^avx512.* [1-9][0-9]* differences" "$work/result" && exit 0
tail -n 20 "$work/screen" "$work/log" "$work/serial"
exit 1
