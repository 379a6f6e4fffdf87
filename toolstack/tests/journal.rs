//! The journal: as a file that survives anything, and as a state machine that never lies.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use xupg::error::Kind as ErrorKind;
use xupg::journal::{
    Content, Journal, JournalFile, Kind, Outcome, Phase, Reason, Release, Upgrade, Verdict,
};
use xupg::ports::JournalStore;
use xupg::slot::Slot;
use xupg::state::Boot;

fn release(version: &str) -> Release {
    Release {
        version: version.to_owned(),
        manifest: format!("digest of {version}"),
    }
}

fn installed() -> Journal {
    Journal::installed(Slot::A, release("1"), "1".to_owned(), 7)
}

fn begun(kind: Kind, to: &str, target: Slot) -> Upgrade {
    Upgrade {
        txn: format!("to {to}"),
        kind,
        to: release(to),
        from: "1".to_owned(),
        target,
        phase: if kind == Kind::Upgrade {
            Phase::Staging
        } else {
            Phase::Switched
        },
        started: 1,
        signed_at: 9,
        giving_up: None,
        domains: BTreeMap::new(),
    }
}

fn reason(message: &str, release_at_fault: bool) -> Reason {
    Reason {
        domain: Some("db".to_owned()),
        message: message.to_owned(),
        release_at_fault,
    }
}

fn on_trial() -> Journal {
    let mut journal = installed();
    journal.begin(begun(Kind::Upgrade, "2", Slot::B));
    journal.staged();
    journal.switched();
    journal.trial_began(BTreeMap::new());
    journal
}

#[test]
fn what_is_saved_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let file = JournalFile::in_directory(directory.path());
    let mut journal = on_trial();
    journal.give_up(reason("it died", true));
    file.save(&journal).unwrap();
    assert_eq!(file.load().unwrap(), journal);
}

#[test]
fn a_torn_draft_that_a_power_cut_left_is_not_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let file = JournalFile::in_directory(directory.path());
    file.save(&installed()).unwrap();
    fs::write(
        directory.path().join("journal.json.new"),
        b"{\"schema\":1,\"conf",
    )
    .unwrap();
    assert_eq!(file.load().unwrap(), installed());
    file.save(&on_trial()).unwrap();
    assert_eq!(file.load().unwrap(), on_trial());
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "the draft is gone"
    );
}

#[test]
fn a_missing_journal_is_a_refusal_that_says_what_to_look_at() {
    let directory = tempfile::tempdir().unwrap();
    let error = JournalFile::in_directory(directory.path())
        .load()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error
            .to_string()
            .contains("is the state partition mounted?"),
        "{error}"
    );
}

#[test]
fn garbage_is_an_error_and_never_a_journal() {
    let directory = tempfile::tempdir().unwrap();
    let file = JournalFile::in_directory(directory.path());
    let whole = serde_json::to_vec(&on_trial()).unwrap();
    for garbage in [
        &b""[..],
        b"null",
        b"{}",
        b"\xff\xfe\0",
        b"[1,2",
        &whole[..whole.len() / 2],
    ] {
        fs::write(directory.path().join("journal.json"), garbage).unwrap();
        let error = file.load().unwrap_err().to_string();
        assert!(error.contains("reading the journal"), "{error}");
    }
}

#[test]
fn a_journal_of_another_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = JournalFile::in_directory(directory.path());
    file.save(&Journal {
        schema: 2,
        ..installed()
    })
    .unwrap();
    let error = file.load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error
            .to_string()
            .contains("it has schema 2, this program knows 1"),
        "{error}"
    );
}

#[test]
fn a_journal_that_cannot_be_written_is_an_error_and_the_old_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let file = JournalFile::in_directory(directory.path());
    file.save(&installed()).unwrap();
    // A folder where the draft would be: holds for root too.
    fs::create_dir(directory.path().join("journal.json.new")).unwrap();
    assert!(file.save(&on_trial()).is_err());
    assert_eq!(file.load().unwrap(), installed());
}

#[test]
fn a_verdict_is_taken_once_and_garbage_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = JournalFile::in_directory(directory.path());
    assert_eq!(file.take_verdict(), None);
    for verdict in [Verdict::Confirm, Verdict::GoBack] {
        file.leave_verdict(verdict).unwrap();
        assert_eq!(file.take_verdict(), Some(verdict));
        assert_eq!(file.take_verdict(), None);
    }
    fs::write(directory.path().join("verdict"), b"\xffwhat").unwrap();
    assert_eq!(file.take_verdict(), None);
}

#[test]
fn a_boot_means_this() {
    let phase = |kind, phase| {
        let mut journal = installed();
        journal.upgrade = Some(Upgrade {
            phase,
            ..begun(kind, "2", Slot::B)
        });
        journal
    };
    assert_eq!(installed().judge_boot(Slot::A), Boot::Ordinary);
    assert_eq!(installed().judge_boot(Slot::B), Boot::Ordinary);
    let staging = phase(Kind::Upgrade, Phase::Staging).judge_boot(Slot::A);
    assert!(matches!(staging, Boot::StageCutShort(_)), "{staging:?}");
    assert_eq!(
        phase(Kind::Upgrade, Phase::Staged).judge_boot(Slot::A),
        Boot::Ordinary
    );
    for begun in [Phase::Staged, Phase::Switched, Phase::Trial] {
        // However it came to be booted: a release that is not confirmed is judged.
        assert_eq!(
            phase(Kind::Upgrade, begun).judge_boot(Slot::B),
            Boot::Trial,
            "{begun:?}"
        );
    }
    let blame = |journal: Journal| match journal.judge_boot(Slot::A) {
        Boot::FellBack(reason) => (reason.release_at_fault, reason.message),
        other => panic!("{other:?}"),
    };
    let (at_fault, words) = blame(phase(Kind::Upgrade, Phase::Switched));
    assert!(at_fault && words.contains("never came up"), "{words}");
    let (at_fault, words) = blame(phase(Kind::Upgrade, Phase::Trial));
    assert!(!at_fault && words.contains("cut short"), "{words}");
    let mut given_up = on_trial();
    given_up.give_up(reason("its hook failed", true));
    given_up.give_up(reason("the node was rebooted", false));
    assert_eq!(
        blame(given_up),
        (true, "its hook failed".to_owned()),
        "the first reason stays"
    );

    assert_eq!(
        phase(Kind::Rollback, Phase::Switched).judge_boot(Slot::B),
        Boot::RolledBack
    );
    let missed = phase(Kind::Rollback, Phase::Switched).judge_boot(Slot::A);
    assert!(matches!(missed, Boot::RollbackMissed(_)), "{missed:?}");
}

#[test]
fn a_confirmation_swaps_the_roles_raises_the_floor_and_forgets_the_failures_of_the_release() {
    let mut journal = on_trial();
    journal.fell_back(reason("its hook failed", true));
    assert_eq!((journal.failed.len(), journal.release(Slot::B)), (1, None));
    journal.begin(begun(Kind::Upgrade, "2", Slot::B));
    journal.staged();
    journal.switched();
    journal.trial_began(BTreeMap::new());
    journal.confirmed("1.5");
    assert_eq!(
        (journal.confirmed, journal.floor.as_str()),
        (Slot::B, "1.5")
    );
    assert!(journal.failed.is_empty());
    journal.begin(begun(Kind::Rollback, "1", Slot::A));
    journal.rolled_back();
    assert_eq!(
        (journal.confirmed, journal.floor.as_str()),
        (Slot::A, "1.5"),
        "a floor never sinks"
    );
    assert_eq!(journal.last.unwrap().outcome, Outcome::RolledBack);
}

#[test]
fn an_upgrade_that_is_given_up_once_it_is_staged_stays_staged_with_the_reason() {
    let mut journal = installed();
    journal.begin(begun(Kind::Upgrade, "2", Slot::B));
    journal.staged();
    journal.switched();
    journal.given_up(reason("no reboot", false));
    assert_eq!(journal.upgrade.as_ref().unwrap().phase, Phase::Staged);
    assert_eq!(journal.release(Slot::B), Some(&release("2")));
    let Outcome::Abandoned(why) = journal.last.unwrap().outcome else {
        panic!()
    };
    assert_eq!(why.message, "no reboot");
}

/// Something that happens, in any order at all.
#[derive(Debug, Clone)]
enum Happening {
    Begin(bool, u8),
    Staged,
    Switched,
    Cancelled,
    GivenUp,
    Discarded,
    TrialBegan,
    GiveUp(bool),
    Confirmed(u8),
    Boot(Slot),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        (any::<bool>(), 2u8..9).prop_map(|(rollback, to)| Begin(rollback, to)),
        Just(Staged),
        Just(Switched),
        Just(Cancelled),
        Just(GivenUp),
        Just(Discarded),
        Just(TrialBegan),
        any::<bool>().prop_map(GiveUp),
        (0u8..9).prop_map(Confirmed),
        prop::sample::select(vec![Slot::A, Slot::B]).prop_map(Boot),
    ]
}

fn happen(journal: &mut Journal, what: &Happening) {
    match what {
        Happening::Begin(rollback, to) => {
            let kind = if *rollback {
                Kind::Rollback
            } else {
                Kind::Upgrade
            };
            journal.begin(begun(kind, &to.to_string(), !journal.confirmed));
        }
        Happening::Staged => journal.staged(),
        Happening::Switched => journal.switched(),
        Happening::Cancelled => journal.switch_cancelled(),
        Happening::GivenUp => journal.given_up(reason("given up", false)),
        Happening::Discarded => journal.discarded(),
        Happening::TrialBegan => journal.trial_began(BTreeMap::new()),
        Happening::GiveUp(at_fault) => journal.give_up(reason("on trial", *at_fault)),
        Happening::Confirmed(floor) => journal.confirmed(&floor.to_string()),
        Happening::Boot(slot) => match journal.judge_boot(*slot) {
            Boot::Ordinary | Boot::Trial => {}
            Boot::StageCutShort(reason) => journal.given_up(reason),
            Boot::FellBack(reason) => journal.fell_back(reason),
            Boot::RollbackMissed(reason) => journal.rollback_missed(*slot, reason),
            Boot::RolledBack => journal.rolled_back(),
        },
    }
}

proptest! {
    #[test]
    fn whatever_happens_in_whatever_order_the_journal_stays_one(
        all in prop::collection::vec(happening(), 0..40)
    ) {
        let mut journal = installed();
        for what in &all {
            let before = journal.clone();
            happen(&mut journal, what);
            prop_assert!(
                xupg_images::version::compare(&journal.floor, &before.floor).is_ge(),
                "the floor sank"
            );
            let mut failed: Vec<_> = journal.failed.iter().map(|f| &f.release.version).collect();
            failed.sort();
            failed.dedup();
            prop_assert_eq!(failed.len(), journal.failed.len(), "a failure is remembered twice");
            prop_assert!(journal.failed.iter().all(|failed| failed.reason.release_at_fault));
            if before.upgrade.is_some() && journal.upgrade.is_none() {
                prop_assert_eq!(&journal.last.as_ref().unwrap().txn, &before.upgrade.unwrap().txn);
            }
            let bytes = serde_json::to_vec(&journal).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Journal>(&bytes).unwrap(), &journal);
        }
    }

    #[test]
    fn a_slot_that_is_written_holds_nothing_until_it_is_staged(
        all in prop::collection::vec(happening(), 0..40)
    ) {
        let mut journal = installed();
        for what in &all {
            happen(&mut journal, what);
            if let Some(upgrade) = &journal.upgrade
                && upgrade.phase == Phase::Staging
            {
                prop_assert_eq!(journal.content(upgrade.target), &Content::Nothing);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_journal_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("journal.json"), bytes).unwrap();
        prop_assert!(JournalFile::in_directory(directory.path()).load().is_err());
    }
}
