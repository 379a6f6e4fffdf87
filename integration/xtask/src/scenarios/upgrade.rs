//! The main job, there and back and there again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::drill::{GARBAGE, VERSION};
use super::play::Play;
use super::stand::{Start, offered};
use super::{Story, Test};
use crate::nested::{APPLY, BOOT, LOOK};

pub(super) const STORY: Story = Story {
    name: "upgrade",
    start: Start::Base,
    chained: true,
    tests: &[
        Test {
            name: "an_upgrade_brings_hypervisor_dom0_and_both_domus_to_2_0_and_is_confirmed",
            run: upgrade,
        },
        Test {
            name: "each_hook_ran_exactly_once_in_its_own_domain",
            run: each_hook_ran_once,
        },
        Test {
            name: "the_slot_that_was_left_is_untouched",
            run: old_slot_is_untouched,
        },
        Test {
            name: "a_guest_reads_its_flag_and_can_change_neither_it_nor_dom0s_keys",
            run: guest_has_no_rights,
        },
        Test {
            name: "a_rollback_puts_all_of_it_back_to_1_0",
            run: rollback,
        },
        Test {
            name: "after_a_rollback_the_upgrade_works_again",
            run: upgrade_again,
        },
        Test {
            name: "a_guest_that_ignores_its_shutdown_is_destroyed_where_the_policy_says_so",
            run: stubborn_guest_was_destroyed,
        },
        Test {
            name: "the_failed_hook_of_an_optional_domu_is_reported_and_the_node_confirms",
            run: optional_failure_is_reported,
        },
        Test {
            name: "dom0_copes_with_garbage_in_a_guests_answers",
            run: garbage_was_survived,
        },
    ],
};

/// Where the second upgrade's events go: both slots see it.
const EVENTS: &str = "/var/lib/xupg/state/events";

/// One digest over every file of the root in the working directory, without what a running dom0
/// writes by itself.
const DIGEST: &str = "find . -xdev \\( -path ./var/log -o -path ./var/tmp -o -path ./tmp \
    -o -path ./var/lib/systemd -o -path ./var/lib/xen -o -path ./var/lib/xupg/images \
    -o -path ./var/lib/xupg/state -o -path ./boot/efi -o -path ./run -o -path ./dev \\) -prune \
    -o \\( -type f -o -type l \\) -print0 | LC_ALL=C sort -z \
    | tar -c --null --no-recursion -T - | sha256sum";

fn upgrade(play: &mut Play<'_>) -> Result<()> {
    let digest = play
        .node
        .machine
        .ssh()
        .run(&format!("cd / && {DIGEST}"), APPLY)?;
    play.notes.insert("slot a", digest);
    play.drill("web rights")?;
    let bundle = play.stand.drill.clone();
    play.node.offer(&[&bundle])?;
    play.node
        .through_reboot(&format!("apply {}", offered(&bundle)?))?;
    play.is_confirmed()?;
    play.node.expect_release(VERSION)
}

fn each_hook_ran_once(play: &mut Play<'_>) -> Result<()> {
    // `db` is optional: the node may have confirmed before its hook was done.
    play.node.wait_for("db's hook done", BOOT, |status| {
        status["last"]["domains"]["db"]["state"] == "done"
    })?;
    play.node.hooks_ran_once()
}

fn old_slot_is_untouched(play: &mut Play<'_>) -> Result<()> {
    let line = format!(
        "mount -t ext4 -o ro,noload /dev/disk/by-partlabel/xupg-a /mnt && cd /mnt && {DIGEST}; \
         cd /; umount /mnt"
    );
    let now = play.node.machine.ssh().run(&line, APPLY)?;
    let before = play.notes.get("slot a").context("no digest from before")?;
    ensure!(now == *before, "slot A was {before} and is {now}");
    Ok(())
}

fn guest_has_no_rights(play: &mut Play<'_>) -> Result<()> {
    let said: Vec<String> = play
        .node
        .consoles
        .lines("web")
        .into_iter()
        .filter_map(|line| Some(line.text.strip_prefix("probe: ")?.to_owned()))
        .collect();
    for wanted in [
        "read own flag -> boot",
        "write own flag -> EACCES",
        "add to own flag -> EACCES",
        "remove own flag -> EACCES",
        "open own flag to all -> EACCES",
        "read ops view -> EACCES",
        "write ops view -> EACCES",
        "write dom0's keys -> EACCES",
        "write own answer -> OK",
        "over",
    ] {
        ensure!(
            said.iter().any(|line| line == wanted),
            "no `{wanted}` in {said:#?}"
        );
    }
    Ok(())
}

fn rollback(play: &mut Play<'_>) -> Result<()> {
    let mark = play.node.machine.console_mark();
    play.reboots("rollback")?;
    let status = play.is_back(mark)?;
    ensure!(
        status["last"]["outcome"]["outcome"] == "rolled_back",
        "not rolled back: {status:#}"
    );
    Ok(())
}

fn upgrade_again(play: &mut Play<'_>) -> Result<()> {
    play.make_web_stubborn()?;
    play.drill("db garbage,hook-fails")?;
    let bundle = play.stand.drill.clone();
    play.node.offer(&[&bundle])?;
    let line = format!("--progress-fd 3 apply {} 3>{EVENTS}", offered(&bundle)?);
    play.node.through_reboot(&line)?;
    play.is_confirmed()?;
    play.node.expect_release(VERSION)
}

fn stubborn_guest_was_destroyed(play: &mut Play<'_>) -> Result<()> {
    let events = play.node.run(&format!("cat {EVENTS}"))?;
    let of = |domain: &str, state: &str| {
        events.lines().any(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|event| event["domain"] == domain && event["state"] == state)
        })
    };
    ensure!(of("web", "destroyed"), "web was not destroyed:\n{events}");
    ensure!(of("db", "stopped"), "db was not shut down:\n{events}");
    Ok(())
}

fn optional_failure_is_reported(play: &mut Play<'_>) -> Result<()> {
    let status = play.node.wait_for("db's hook failed", BOOT, |status| {
        status["last"]["domains"]["db"]["state"] == "failed"
    })?;
    let db = &status["last"]["domains"]["db"];
    ensure!(db["mandatory"] == false, "db should be optional: {db}");
    let message = db["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("the drill wants this hook to fail"),
        "the reason should be the hook's: {db}"
    );
    ensure!(
        status["last"]["outcome"]["outcome"] == "confirmed",
        "not confirmed: {status:#}"
    );
    let shown = play.node.run("xupg status")?;
    ensure!(
        shown
            .lines()
            .any(|line| line.contains("db") && line.contains("failed")),
        "a person is not told:\n{shown}"
    );
    Ok(())
}

fn garbage_was_survived(play: &mut Play<'_>) -> Result<()> {
    let wanted = format!("probe: {GARBAGE} garbage writes");
    let said = play.node.consoles.lines("db");
    ensure!(
        said.iter().any(|line| line.text.contains(&wanted)),
        "db has not written its garbage"
    );
    // xenstored and the boot service are as they were, and ops see nothing of it.
    let ops = play.node.machine.ssh().run(
        "xenstore-ls -f /tool/xupg && systemctl is-active xupg-boot xen",
        LOOK,
    )?;
    ensure!(
        ops.lines().all(|line| line.len() < 400 && line.is_ascii()),
        "the garbage reached the ops' view:\n{ops}"
    );
    play.node
        .consoles
        .wait_for("web", "web: alive", Duration::from_secs(60))
        .map(drop)
}
