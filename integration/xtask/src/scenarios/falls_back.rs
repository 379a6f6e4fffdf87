//! Releases that do not work out: the node goes back by itself and names the culprit.

use anyhow::{Result, ensure};

use super::bad_bundles::Small;
use super::play::{Play, expect_fallback};
use super::stand::{Start, offered};
use super::{Story, Test};
use crate::images::release::Release;

pub(super) const DOM0_PANICS: Story = Story {
    name: "dom0-panics",
    start: Start::Base,
    chained: true,
    tests: &[
        Test {
            name: "the_firmware_falls_back_when_the_new_dom0_panics",
            run: dom0_panics,
        },
        Test {
            name: "a_release_that_failed_is_refused_without_force",
            run: not_again,
        },
    ],
};

pub(super) const UNSIGNED: Story = Story {
    name: "unsigned",
    start: Start::Base,
    chained: true,
    tests: &[Test {
        name: "an_unsigned_boot_image_does_not_boot",
        run: unsigned,
    }],
};

pub(super) const DOM0_HOOK: Story = Story {
    name: "dom0-hook",
    start: Start::Staged,
    chained: true,
    tests: &[Test {
        name: "the_node_falls_back_when_dom0s_boot_hook_fails",
        run: |play| drill(play, "dom0 hook-fails", "dom0", "the drill wants"),
    }],
};

pub(super) const EMERGENCY: Story = Story {
    name: "emergency",
    start: Start::Staged,
    chained: true,
    tests: &[Test {
        name: "the_node_falls_back_when_the_new_dom0_ends_in_emergency_mode",
        run: emergency,
    }],
};

pub(super) const DOMU_HOOK: Story = Story {
    name: "domu-hook",
    start: Start::Staged,
    chained: true,
    tests: &[Test {
        name: "the_node_falls_back_when_a_mandatory_domus_hook_fails",
        run: |play| drill(play, "web hook-fails", "web", "the drill wants"),
    }],
};

pub(super) const DOMU_SILENT: Story = Story {
    name: "domu-silent",
    start: Start::Staged,
    chained: true,
    tests: &[Test {
        name: "the_node_falls_back_when_a_mandatory_domu_never_reports_anything_but_garbage",
        run: |play| drill(play, "web garbage,no-agent", "web", "has not reported good"),
    }],
};

/// Boots the staged release into a fault.
fn drill(play: &mut Play<'_>, faults: &str, culprit: &str, words: &str) -> Result<()> {
    play.drill(faults)?;
    let mark = play.node.machine.console_mark();
    play.reboots("switch --reboot")?;
    let status = play.is_back(mark)?;
    expect_fallback(&status, culprit, words)?;
    let console = play.node.machine.console_since(mark);
    ensure!(
        console.contains("xupg.release=2.0") || console.contains("release 2.0, slot b"),
        "release 2.0 has not been tried"
    );
    let shown = play.node.run("xupg status")?;
    ensure!(
        shown.contains(culprit) && shown.contains(words),
        "a person is not told why:\n{shown}"
    );
    Ok(())
}

/// The staged dom0 waits for a file system that does not exist, and never comes as far as xupg.
fn emergency(play: &mut Play<'_>) -> Result<()> {
    let fstab = "PARTLABEL=nowhere /mnt ext4 x-systemd.device-timeout=5s 0 0";
    play.node.run(&format!(
        "set -e; mount -t ext4 /dev/disk/by-partlabel/xupg-b /mnt; \
         echo '{fstab}' >>/mnt/etc/fstab; umount /mnt"
    ))?;
    let mark = play.node.machine.console_mark();
    play.reboots("switch --reboot")?;
    let status = play.is_back(mark)?;
    ensure!(
        play.node
            .machine
            .console_since(mark)
            .contains("emergency mode"),
        "the new dom0 has not got into emergency mode"
    );
    expect_fallback(&status, "dom0", "has not come as far as")
}

/// A small release around the boot image of one that goes wrong before it needs more.
fn small(name: &'static str, release: Release) -> Small {
    Small {
        name,
        boot: Some(release),
        // Small as it is, it is not a policy to be waited for.
        shutdown_s: 90,
        ..Small::default()
    }
}

fn panicking() -> Small {
    small("panics", Release::new("2.0-panics", "2.0").dom0_panics())
}

fn dom0_panics(play: &mut Play<'_>) -> Result<()> {
    let keys = &play.stand.factory.keys;
    let bundle = panicking().bundle(&play.stand.factory, &keys.release_signer())?;
    play.node.offer(&[&bundle])?;
    let mark = play.node.machine.console_mark();
    play.reboots(&format!("apply {}", offered(&bundle)?))?;
    let status = play.is_back(mark)?;
    ensure!(
        play.node
            .machine
            .console_since(mark)
            .contains("this release panics on purpose"),
        "the new dom0 has not been tried"
    );
    expect_fallback(&status, "dom0", "never came up")
}

fn not_again(play: &mut Play<'_>) -> Result<()> {
    let keys = &play.stand.factory.keys;
    let bundle = panicking().bundle(&play.stand.factory, &keys.release_signer())?;
    let said = play.apply("", &bundle)?;
    ensure!(
        said.status == Some(3) && said.stderr.contains("--force"),
        "not refused: {said:?}"
    );
    let forced = play
        .node
        .xupg(&format!("-N apply --force {}", offered(&bundle)?))?;
    ensure!(forced.status == Some(0), "not with force: {forced:?}");
    Ok(())
}

fn unsigned(play: &mut Play<'_>) -> Result<()> {
    let release = Release::new("2.0-unsigned", "2.0").unsigned_boot_image();
    let keys = &play.stand.factory.keys;
    let bundle = small("unsigned", release).bundle(&play.stand.factory, &keys.release_signer())?;
    play.node.offer(&[&bundle])?;
    let mark = play.node.machine.console_mark();
    play.reboots(&format!("apply {}", offered(&bundle)?))?;
    let status = play.is_back(mark)?;
    let console = play.node.machine.console_since(mark);
    ensure!(
        console.contains("Access Denied"),
        "the firmware has not refused anything"
    );
    ensure!(
        !console.contains("xupg.release=2.0"),
        "an unsigned hypervisor has started"
    );
    expect_fallback(&status, "dom0", "never came up")
}
