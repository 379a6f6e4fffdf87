//! Bundles that a node must not take, and an upgrade that another is in the way of.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::bad_bundles::{self, Hurt, Small};
use super::play::Play;
use super::stand::{Start, offered};
use super::{Story, Test};
use crate::nested::LOOK;
use crate::paths;

pub(super) const STORY: Story = Story {
    name: "refusals",
    start: Start::Base,
    chained: false,
    tests: &[
        Test {
            name: "a_flipped_bit_in_the_manifest_is_refused",
            run: |play| hurt(play, Hurt::Middle("manifest.json"), &[3]),
        },
        Test {
            name: "a_flipped_bit_in_the_signature_is_refused",
            run: |play| hurt(play, Hurt::Middle("manifest.sig"), &[3]),
        },
        Test {
            name: "a_flipped_bit_in_a_payloads_first_chunk_is_found",
            run: |play| hurt(play, Hurt::Start("dom0.tar.zst"), &[1, 3]),
        },
        Test {
            name: "a_flipped_bit_in_a_payloads_last_chunk_is_found",
            run: |play| hurt(play, Hurt::End("dom0.tar.zst"), &[1]),
        },
        Test {
            name: "a_bundle_that_is_cut_off_in_the_middle_is_found",
            run: |play| hurt(play, Hurt::CutIn("dom0.tar.zst"), &[1]),
        },
        Test {
            name: "a_strangers_signature_is_refused",
            run: stranger,
        },
        Test {
            name: "a_bundle_for_other_nodes_is_refused",
            run: |play| {
                let small = Small {
                    name: "other-node",
                    compatible: "another-product",
                    ..Small::default()
                };
                refused(play, &small, "another-product")
            },
        },
        Test {
            name: "a_release_older_than_the_floor_is_refused",
            run: |play| {
                let small = Small {
                    name: "old",
                    version: "0.9",
                    ..Small::default()
                };
                refused(play, &small, "older")
            },
        },
        Test {
            name: "a_release_too_big_for_the_slot_is_refused",
            run: |play| {
                let small = Small {
                    name: "big",
                    web_bytes: 64 << 30,
                    ..Small::default()
                };
                refused(play, &small, "MiB")
            },
        },
        Test {
            name: "the_second_of_two_upgrades_at_once_changes_nothing",
            run: second_of_two,
        },
    ],
};

fn hurt(play: &mut Play<'_>, hurt: Hurt, codes: &[i32]) -> Result<()> {
    let keys = &play.stand.factory.keys;
    let good = Small::default().bundle(&play.stand.factory, &keys.release_signer())?;
    let bad = paths::lab().join("test/hurt.xupg");
    bad_bundles::hurt(&good, hurt, &bad)?;
    unharmed(play, &bad, codes, "")
}

fn stranger(play: &mut Play<'_>) -> Result<()> {
    let small = Small {
        name: "stranger",
        ..Small::default()
    };
    let bundle = small.bundle(&play.stand.factory, &play.stand.factory.keys.stranger())?;
    unharmed(play, &bundle, &[3], "trusts")
}

fn refused(play: &mut Play<'_>, small: &Small, words: &str) -> Result<()> {
    let keys = &play.stand.factory.keys;
    let bundle = small.bundle(&play.stand.factory, &keys.release_signer())?;
    unharmed(play, &bundle, &[3], words)
}

/// The node says no with one of `codes` and with `words`, and is as it was.
fn unharmed(
    play: &mut Play<'_>,
    bundle: &std::path::Path,
    codes: &[i32],
    words: &str,
) -> Result<()> {
    let before = state(play)?;
    let said = play.apply("", bundle)?;
    let code = said.status.unwrap_or_default();
    ensure!(
        codes.contains(&code) && said.stderr.contains(words),
        "not one of {codes:?} and `{words}`: {said:?}"
    );
    ensure!(
        said.stderr.contains("a reboot is safe"),
        "it does not say where the node stands: {}",
        said.stderr
    );
    let after = state(play)?;
    ensure!(
        before.domains == after.domains,
        "the domUs are not those of before: {} and {}",
        before.domains,
        after.domains
    );
    if code == 3 {
        ensure!(
            before.journal == after.journal,
            "refused, and yet the journal has changed: {}",
            after.journal
        );
    }
    let status = play.node.status()?;
    ensure!(
        status["state"] == "idle" && status["active"] == "a" && status["next"] == "a",
        "the active slot is not what boots next: {status:#}"
    );
    ensure!(
        status["standby"].is_null(),
        "the standby slot holds a release: {status:#}"
    );
    play.node.expect_release("1.0")
}

struct State {
    domains: String,
    journal: String,
}

fn state(play: &Play<'_>) -> Result<State> {
    Ok(State {
        domains: play
            .node
            .run("xl domid web; xl domid db; losetup -a | wc -l")?,
        journal: play.node.run("cat /var/lib/xupg/state/journal.json")?,
    })
}

fn second_of_two(play: &mut Play<'_>) -> Result<()> {
    let drill = play.stand.drill.clone();
    play.node.offer(&[&drill])?;
    let bundle = offered(&drill)?;
    play.node.run(&format!(
        "nohup xupg apply {bundle} </dev/null >/run/first.log 2>&1 & echo $! >/run/first.pid"
    ))?;
    play.node
        .wait_for("staging", Duration::from_secs(120), |status| {
            status["state"] == "staging"
        })?;
    let before = play.node.run("cat /var/lib/xupg/state/journal.json")?;
    let second = play.node.xupg(&format!("apply {bundle}"))?;
    let after = play.node.run("cat /var/lib/xupg/state/journal.json")?;
    let running = play
        .node
        .machine
        .ssh()
        .try_run("kill -0 $(cat /run/first.pid) && cat /run/first.log", LOOK)?;
    ensure!(
        running.status == Some(0),
        "the first has ended too early to show anything: {running:?}"
    );
    ensure!(second.status == Some(4), "not exit code 4: {second:?}");
    ensure!(
        before == after,
        "the second has changed the journal:\n{before}\n{after}"
    );
    Ok(())
}
