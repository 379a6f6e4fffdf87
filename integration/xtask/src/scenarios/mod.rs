//! What must be shown under real Xen. A [`Story`] is one machine and the tests that it goes through;
//! stories do not depend on each other.

mod bad_bundles;
mod drill;
mod falls_back;
mod play;
mod refusals;
mod stand;
mod stubborn;
mod upgrade;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::progress;
use play::Play;
use stand::{Stand, Start};

/// One machine's way through some tests.
#[derive(Debug)]
pub struct Story {
    /// A word to call it by.
    pub name: &'static str,
    /// What its machine is at the beginning.
    start: Start,
    /// Each test needs those before it. Otherwise each is by itself, and the node is the same
    /// after it.
    chained: bool,
    /// In this order.
    tests: &'static [Test],
}

/// One test of a story.
struct Test {
    /// What it shows, as a sentence.
    name: &'static str,
    run: fn(&mut Play<'_>) -> Result<()>,
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them.
pub const STORIES: [&Story; 9] = [
    &upgrade::STORY,
    &falls_back::DOM0_PANICS,
    &falls_back::UNSIGNED,
    &falls_back::DOM0_HOOK,
    &falls_back::EMERGENCY,
    &falls_back::DOMU_HOOK,
    &falls_back::DOMU_SILENT,
    &stubborn::STORY,
    &refusals::STORY,
];

/// How a test ended.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What went wrong.
    pub failure: Option<String>,
}

impl Ended {
    /// Runs `work` as the test `name`, and says how it ended.
    pub fn of(name: &str, work: impl FnOnce() -> Result<()>) -> Self {
        progress::say(format_args!("test {name} ..."));
        let began = Instant::now();
        let failure = work().err().map(|error| format!("{error:#}"));
        let took = began.elapsed();
        let word = if failure.is_some() { "FAILED" } else { "ok" };
        progress::say(format_args!(
            "test {name}: {word}, {:.0} s",
            took.as_secs_f64()
        ));
        if let Some(failure) = &failure {
            progress::say(format_args!("  {failure}"));
        }
        Self {
            name: name.to_owned(),
            took,
            failure,
        }
    }

    fn not_reached(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            took: Duration::ZERO,
            failure: Some("not reached: a test before it failed".to_owned()),
        }
    }
}

/// Runs the tests whose name, or whose story's, contains one of `names`; all without names.
///
/// # Errors
/// When there is no such test, or what they have in common cannot be made.
pub fn run(names: &[String]) -> Result<Vec<Ended>> {
    let chosen: Vec<_> = STORIES
        .into_iter()
        .map(|story| (story, wanted(story, names)))
        .filter(|(_, tests)| !tests.is_empty())
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no scenario's name contains {}",
        names.join(" or ")
    );
    let stand = Stand::set_up()?;
    Ok(chosen
        .into_iter()
        .flat_map(|(story, tests)| tell(&stand, story, &tests))
        .collect())
}

/// The tests of `story` to run: with those that they need.
fn wanted(story: &'static Story, names: &[String]) -> Vec<&'static Test> {
    let asked = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    if asked(story.name) {
        return story.tests.iter().collect();
    }
    let last = story.tests.iter().rposition(|test| asked(test.name));
    let needed = last.map_or(0, |last| last + 1);
    let needed = story.tests.iter().take(needed);
    needed
        .filter(|test| story.chained || asked(test.name))
        .collect()
}

fn tell(stand: &Stand, story: &Story, tests: &[&Test]) -> Vec<Ended> {
    progress::say(format_args!("story {}", story.name));
    let mut play = match Play::begin(stand, story.name, story.start) {
        Ok(play) => play,
        Err(error) => {
            let failed = |test: &&Test| Ended::of(test.name, || Err(anyhow::anyhow!("{error:#}")));
            return tests.iter().map(failed).collect();
        }
    };
    let mut ended: Vec<Ended> = Vec::new();
    for test in tests {
        let lost = ended.iter().any(|before| before.failure.is_some());
        ended.push(if story.chained && lost {
            Ended::not_reached(test.name)
        } else {
            Ended::of(test.name, || (test.run)(&mut play))
        });
        if ended.last().is_some_and(|it| it.failure.is_some()) && !(story.chained && lost) {
            play.keep_evidence();
        }
    }
    let good = ended.iter().all(|test| test.failure.is_none());
    play.end(good);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_test_of_a_chain_brings_those_before_it() {
        let last = upgrade::STORY.tests.last().unwrap().name.to_owned();
        assert_eq!(
            wanted(&upgrade::STORY, &[last]).len(),
            upgrade::STORY.tests.len()
        );
    }

    #[test]
    fn a_test_that_stands_by_itself_comes_alone() {
        let last = refusals::STORY.tests.last().unwrap().name.to_owned();
        assert_eq!(wanted(&refusals::STORY, &[last]).len(), 1);
    }

    #[test]
    fn no_two_tests_have_one_name() {
        let mut names: Vec<_> = STORIES
            .iter()
            .flat_map(|story| story.tests.iter().map(|test| test.name))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
