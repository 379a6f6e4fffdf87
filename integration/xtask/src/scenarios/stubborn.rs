//! A guest that ignores its shutdown where the policy is to give the upgrade up. (The other policy
//! is shown on the way of [`super::upgrade`].)

use anyhow::{Result, ensure};

use super::bad_bundles::Small;
use super::play::Play;
use super::stand::Start;
use super::{Story, Test};

pub(super) const STORY: Story = Story {
    name: "stubborn",
    start: Start::Base,
    chained: true,
    tests: &[Test {
        name: "a_guest_that_ignores_its_shutdown_ends_the_upgrade_where_the_policy_says_so",
        run: gives_up,
    }],
};

fn gives_up(play: &mut Play<'_>) -> Result<()> {
    play.make_web_stubborn()?;
    let keys = &play.stand.factory.keys;
    let bundle = Small::default().bundle(&play.stand.factory, &keys.release_signer())?;
    // Cold: the domUs come first, and nothing has been staged when it ends.
    let said = play.apply("--cold", &bundle)?;
    ensure!(
        said.status == Some(1)
            && said.stderr.contains("`web`")
            && said.stderr.contains("has not shut down"),
        "not given up, or not because of web: {said:?}"
    );
    let status = play.node.status()?;
    ensure!(
        status["state"] == "idle" && status["active"] == "a" && status["next"] == "a",
        "the active slot is not what boots next: {status:#}"
    );
    ensure!(
        status["standby"].is_null(),
        "nothing was staged: {status:#}"
    );
    ensure!(
        status["last"]["outcome"]["outcome"] == "abandoned",
        "no reason is kept: {status:#}"
    );
    play.node.expect_release("1.0")
}
