#!/bin/sh
# Makes db's root from what mmdebstrap installed. $1: the root; $2: this directory.
set -eu
root=$1 here=$2
cp -a "$here/overlay/." "$root/"
chown -R 0:0 "$root/etc" "$root/usr/lib/xupg-lab" "$root/var/lib/db"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sfn /etc/systemd/system/db-serve.service "$root/etc/systemd/system/multi-user.target.wants/db-serve.service"
echo db >"$root/etc/hostname"
