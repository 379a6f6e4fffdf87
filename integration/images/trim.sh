#!/bin/sh
# Trims a Debian root that will never install a package again. $1: the root.
set -eu
root=$1
cd "$root"

# apt has done its work. dpkg's database would describe what is no longer there.
find var/log -type f -delete
rm -rf var/lib/apt var/cache/apt var/cache/debconf var/lib/dpkg etc/apt etc/cron.* etc/cron.d
rm -f usr/bin/apt* usr/lib/x86_64-linux-gnu/libapt-* usr/bin/dpkg* usr/bin/perl* usr/bin/debconf*
rm -rf usr/lib/apt usr/lib/dpkg usr/share/dpkg usr/lib/x86_64-linux-gnu/perl* usr/share/perl* usr/share/debconf
rm -rf usr/lib/x86_64-linux-gnu/gconv usr/share/i18n usr/share/common-licenses usr/share/polkit-1 usr/share/gcc usr/share/gdb
rm -rf usr/lib/udev/hwdb.bin usr/lib/systemd/catalog usr/share/pam* usr/share/zoneinfo/* usr/share/keyrings
rm -rf usr/lib/locale/C.utf8.bak usr/lib/systemd/systemd-cryptsetup usr/lib/systemd/systemd-veritysetup
rm -rf boot/* usr/share/bash-completion usr/share/locale usr/share/man usr/share/doc usr/lib/mime

# Names that each booted node finds out or is given for itself.
: >etc/machine-id
rm -f etc/hostname etc/resolv.conf var/lib/dbus/machine-id

# The node is watched through its console: warnings go there, nothing is kept.
mkdir -p etc/systemd/journald.conf.d
cat >etc/systemd/journald.conf.d/lab.conf <<'EOF'
[Journal]
Storage=volatile
ForwardToConsole=yes
MaxLevelConsole=warning
EOF

# Under emulation every unit costs a fifth of a second. The lab needs none of these.
mkdir -p etc/systemd/system
for generator in usr/lib/systemd/system-generators/*; do
	case ${generator##*/} in
	# dom0's two file systems, and Debian's init scripts for Xen.
	systemd-fstab-generator | systemd-sysv-generator) ;;
	*) rm "$generator" ;;
	esac
done
for unit in \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	systemd-tmpfiles-clean.timer systemd-logind.service systemd-user-sessions.service getty.target \
	getty-static.service serial-getty@hvc0.service remote-fs.target systemd-pstore.service systemd-firstboot.service \
	systemd-repart.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount \
	sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount \
	systemd-ask-password-console.path systemd-ask-password-wall.path systemd-update-utmp.service \
	systemd-update-utmp-runlevel.service systemd-journal-flush.service systemd-journald-audit.socket \
	systemd-machine-id-commit.service systemd-pcrphase.service systemd-pcrphase-sysinit.service \
	systemd-random-seed.service systemd-hwdb-update.service systemd-sysusers.service cryptsetup.target \
	veritysetup.target integritysetup.target systemd-networkd.service systemd-networkd.socket \
	systemd-timesyncd.service systemd-initctl.socket systemd-remount-fs.service modprobe@.service \
	systemd-sysctl.service procps.service kmod.service hwclock.service ldconfig.service; do
	ln -sfn /dev/null "etc/systemd/system/$unit"
done
ln -sfn /lib/systemd/system/multi-user.target etc/systemd/system/default.target
