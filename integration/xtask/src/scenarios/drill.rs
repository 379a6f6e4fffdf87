//! The release of the drills: good, and able to go wrong in many ways, so that one staged release
//! serves many scenarios. The file `drill` on the state partition, which both slots see, says how:
//! lines of a domain and its faults, `web no-agent` or `db garbage,hook-fails`. dom0's `boot` hook
//! reads it, and passes a domU's faults on with its kernel's command line.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::bundles::{Factory, Terms};
use crate::images::release::Release;
use crate::paths;

/// The release's version.
pub(super) const VERSION: &str = "2.0";

/// Where a scenario writes its faults.
pub(super) const FILE: &str = "/var/lib/xupg/state/drill";

/// Garbage that a guest writes before it goes on.
pub(super) const GARBAGE: u32 = 2000;

/// `web` is mandatory, `db` is not; whoever ignores its shutdown is destroyed.
pub(super) fn terms() -> Terms {
    Terms {
        mandatory: [true, false],
        // web is silent in one scenario, which takes that long; db is slow in another.
        health_s: [120, 300],
        shutdown_s: 60,
        on_timeout: "destroy",
        ..Terms::default()
    }
}

/// The release.
///
/// # Errors
/// When the probe cannot be built or a file of the lab is missing.
pub(super) fn release(factory: &Factory) -> Result<Release> {
    let probe = factory.product.guest_probe()?;
    let inittab = paths::recipes().join("web/root/etc/inittab");
    let inittab = fs::read_to_string(&inittab).context("web's inittab")?;
    let plain = "::respawn:/etc/xupg-agent.init";
    ensure!(
        inittab.contains(plain),
        "web's inittab starts no agent to be replaced"
    );
    let inittab = inittab.replace(plain, &format!("::respawn:{AGENT} /etc/xupg-agent.init"));
    let unit = format!("[Service]\nExecStart=\nExecStart={AGENT} /usr/sbin/xupg-agent\n");
    let mut release = factory
        .release("2.0-drill", VERSION)?
        .with_file("dom0", "/usr/lib/xupg/hook", DOM0_HOOK, 0o755)
        .with_file("web", "/etc/inittab", inittab, 0o644)
        .with_file(
            "db",
            "/etc/systemd/system/xupg-agent.service.d/drill.conf",
            unit,
            0o644,
        );
    for (domain, example) in [("web", "web-migrate-config"), ("db", "db-schema-upgrade")] {
        let example = paths::repo().join("hooks/examples").join(example);
        release = release
            .with_file(domain, AGENT, DRILL_AGENT, 0o755)
            .with_file(domain, "/usr/lib/xupg/hook", DOMU_HOOK, 0o755)
            .with_copy(domain, "/usr/lib/xupg-lab/example-hook", &example, 0o755)?
            .with_copy(domain, "/usr/lib/xupg-lab/guest-probe", &probe, 0o755)?;
    }
    Ok(release)
}

const AGENT: &str = "/usr/lib/xupg-lab/drill-agent";

const DOM0_HOOK: &str = r#"#!/bin/sh
# dom0's hook of the drills: notes that it ran, then arranges for what the drill asks for.
set -eu
echo "$XUPG_PHASE $XUPG_TXN $XUPG_FROM_RELEASE->$XUPG_RELEASE" >>/var/lib/xupg-hook.log
[ "$XUPG_PHASE" = boot ] || exit 0
[ -e /var/lib/xupg/state/drill ] || exit 0
while read -r domain faults; do
	case $domain in
	dom0)
		echo "the drill wants dom0's hook to fail" >&2
		exit 1
		;;
	*) sed -i "s/^extra = \"/&xupg.drill=$faults /" "/etc/xen/$domain.cfg" ;;
	esac
done </var/lib/xupg/state/drill
"#;

/// Runs in the agent's place and then becomes it (its arguments), unless the drill says otherwise.
const DRILL_AGENT: &str = r#"#!/bin/sh
drill=,
for word in $(cat /proc/cmdline); do
	case $word in
	xupg.drill=*) drill=,${word#xupg.drill=}, ;;
	esac
done
probe=/usr/lib/xupg-lab/guest-probe
case $drill in *,rights,*) $probe rights >/dev/console 2>&1 ;; esac
case $drill in *,garbage,*) $probe garbage 2000 >/dev/console 2>&1 ;; esac
case $drill in *,no-agent,*) exec sleep 1000000 ;; esac
exec "$@"
"#;

const DOMU_HOOK: &str = r#"#!/bin/sh
# A domU's hook of the drills: the example hook, unless it is to fail.
if [ "$XUPG_PHASE" = boot ] && grep -q 'xupg.drill=[^ ]*hook-fails' /proc/cmdline; then
	echo "the drill wants this hook to fail" >&2
	exit 1
fi
exec /usr/lib/xupg-lab/example-hook
"#;
