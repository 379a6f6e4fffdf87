#!/bin/sh
# Makes db's root from what mmdebstrap installed. $1: the root; $2: this directory.
set -eu
root=$1 here=$2
cp -a "$here/overlay/." "$root/"
chown -R 0:0 "$root/etc" "$root/usr/lib/xupg-lab" "$root/var/lib/db"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sfn /etc/systemd/system/db-serve.service "$root/etc/systemd/system/multi-user.target.wants/db-serve.service"
echo db >"$root/etc/hostname"

# A PV guest whose initramfs has loaded all drivers there are, with devtmpfs for its device nodes.
for unit in systemd-modules-load.service kmod-static-nodes.service systemd-tmpfiles-setup-dev.service; do
	ln -sfn /dev/null "$root/etc/systemd/system/$unit"
done
rm -f "$root"/usr/lib/systemd/system-generators/*
