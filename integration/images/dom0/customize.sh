#!/bin/sh
# Makes dom0's root from what mmdebstrap installed. $1: the root; $2: this directory; $3: the unpacked kernel package.
set -eu
root=$1 here=$2 kernel=$3

# The kernel's modules: what a node on virtual hardware needs, with what those need.
version=$(ls "$kernel/lib/modules")
mkdir -p "$root/usr/lib/modules/$version"
cp "$kernel/lib/modules/$version/modules.builtin" "$kernel/lib/modules/$version/modules.order" \
	"$kernel/lib/modules/$version/modules.builtin.modinfo" "$root/usr/lib/modules/$version/"
depmod --basedir "$kernel" "$version"
modules="ext4 vfat nls_ascii nls_cp437 nls_utf8 loop xen-blkback xen-netback xen-gntdev xen-gntalloc xen-evtchn xen-privcmd
	xenfs xen-acpi-processor xen_wdt i6300esb virtio_pci virtio_blk virtio_net virtio-rng ahci sd_mod nvme efivarfs
	crc32c-intel bridge"
for module in $modules; do
	modprobe --dirname "$kernel" --set-version "$version" --show-depends --ignore-install "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r file; do
	inside=${file#"$kernel"/}
	mkdir -p "$root/usr/${inside%/*}"
	cp "$file" "$root/usr/$inside"
done
depmod --basedir "$root" "$version"

# Xen's scripts need python3, but little of it; and no firmware for HVM guests.
cd "$root"
for name in asyncio concurrent ctypes curses dbm distutils email ensurepip html http idlelib lib2to3 logging \
	multiprocessing pydoc_data sqlite3 test tkinter tomllib turtledemo unittest urllib venv wsgiref xml xmlrpc zoneinfo \
	lib-dynload; do
	rm -rf "usr/lib/python3.11/$name"
done
rm -rf usr/lib/python3.11/pydoc.py usr/lib/python3.11/doctest.py usr/lib/python3/dist-packages/[a-wyzA-Z]*
rm -rf usr/lib/xen-4.17/boot usr/lib/debug
rm -f usr/lib/xen-4.17/bin/test-* usr/lib/xen-4.17/bin/pygrub

# Debian's `xl` is a script that looks for the version of Xen that runs, and then for its `xl`.
ln -sfn ../lib/xen-4.17/bin/xl usr/sbin/xl

# udev's first pass over all devices is the longest part of an emulated boot: keep the rules for disks, modules and systemd.
for rule in usr/lib/udev/rules.d/*.rules; do
	case ${rule##*/} in
	50-udev-default.rules | 60-block.rules | 60-persistent-storage.rules | 64-*.rules | 80-drivers.rules | \
		99-systemd.rules | *xen*) ;;
	*) rm "$rule" ;;
	esac
done

cp -a "$here/overlay/." "$root/"
chown -R 0:0 "$root/etc" "$root/usr/lib/xupg-lab"
for unit in lab-network.service lab-ssh.service lab-ready.service; do
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
	ln -sfn "/etc/systemd/system/$unit" "$root/etc/systemd/system/multi-user.target.wants/$unit"
done
mkdir -p "$root/var/log/xen/console" "$root/boot/efi" "$root/var/lib/xupg/state" "$root/var/lib/xupg/images" "$root/var/lib/xupg/release" \
	"$root/etc/xupg/trust" "$root/etc/xen/auto" "$root/root/.ssh" "$root/etc/dropbear"
chmod 700 "$root/root/.ssh"
