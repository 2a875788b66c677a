use super::*;

const VARIANT: &str = "studio/hero?product=mug";
const CUT: &str = "16:9";

fn actor(number: u8) -> ActorId {
    let mut text = String::new();
    while text.len() < 26 {
        text.push(char::from(b'a' + number));
    }
    text.parse().unwrap_or(ActorId::EDGE)
}

fn drawn() -> Box<Drawn> {
    Box::new(Drawn {
        width_px: 512,
        height_px: 512,
        phash: PerceptualHash::from_bytes([0; 32]),
        node: "test".into(),
        drawn_unix_s: Some(1),
        determinism: None,
        seed: Some(7),
        parts: Parts::default(),
    })
}

fn submit(gates: &[&str]) -> Step {
    Step::Submit { drawn: drawn(), gates: gates.iter().map(ToString::to_string).collect() }
}

fn report(gate: &str, verdict: GateVerdict) -> Step {
    Step::Report(GateFinding { gate: gate.into(), version: "1".into(), verdict, evidence: None })
}

fn review(number: u8, step: Step) -> Review {
    let (recipe, master) = (RecipeId::from_raw([number; 16]), MasterId::from_raw([number; 16]));
    Review { variant: VARIANT.into(), recipe, master, cut: Some(CUT.into()), step }
}

/// Reviews as a log makes them: each step is admitted first, and has the next number.
#[derive(Default)]
struct Desk {
    reviews: Reviews,
    seq: u64,
}

impl Desk {
    fn step(&mut self, by: u8, review: &Review) -> Result<u64, ReviewRefusal> {
        self.reviews.admit(review, (actor(by), 0))?;
        self.seq += 1;
        self.reviews.apply(review, (self.seq, 0), actor(by));
        Ok(self.seq)
    }

    fn submit(&mut self, number: u8) -> u64 {
        self.step(0, &review(number, submit(&[]))).expect("a new picture")
    }

    fn seen(&self, number: u8) -> u64 {
        let recipe = RecipeId::from_raw([number; 16]);
        self.reviews.of(VARIANT).iter().find(|case| case.recipe == recipe).map_or(0, |case| case.seen)
    }

    fn approve(&mut self, by: u8, number: u8, span: (Option<u64>, Option<u64>)) -> Result<u64, ReviewRefusal> {
        let seen = self.seen(number);
        let (from_unix_ms, until_unix_ms) = span;
        self.step(by, &review(number, Step::Approve { approvers: 1, from_unix_ms, until_unix_ms, seen }))
    }

    fn live(&self, now: u64) -> Option<u8> {
        self.reviews.live(VARIANT, CUT, now).map(|case| case.recipe.as_bytes()[0])
    }

    fn states(&self, now: u64) -> Vec<CaseState> {
        let mut states: Vec<_> = self.reviews.each(now).map(|(_, case, state)| (case.id, state)).collect();
        states.sort_unstable();
        states.into_iter().map(|(_, state)| state).collect()
    }
}

const ALWAYS: (Option<u64>, Option<u64>) = (None, None);

fn by_two(seen: u64) -> Step {
    Step::Approve { approvers: 2, from_unix_ms: None, until_unix_ms: None, seen }
}

/// Who is forgotten and comes back has another id. The first approval goes with the name, so that it is not met with a second
/// one of the same person.
#[test]
fn who_was_forgotten_does_not_approve_twice() {
    let mut desk = Desk::default();
    let case = desk.submit(1);
    desk.submit(2);
    let seen = desk.step(1, &review(1, by_two(case))).expect("the first approval");
    desk.seq += 1;
    let changed = desk.reviews.take_back_first_approvals(|it| *it == actor(1), desk.seq);
    assert_eq!(changed.len(), 1);
    assert_eq!(desk.step(9, &review(1, by_two(seen))), Err(ReviewRefusal::Overtaken { seen, last: desk.seq }));
    let seen = desk.step(9, &review(1, by_two(desk.seq))).expect("the first approval again");
    assert_eq!((desk.live(0), desk.reviews.awaiting()), (None, 2));
    assert_eq!(desk.step(9, &review(1, by_two(seen))), Err(ReviewRefusal::SamePerson));
    desk.step(2, &review(1, by_two(seen))).expect("another person's");
    assert_eq!(desk.live(0), Some(1));
    // What two people have decided stays. The way back to the first approval alone goes.
    assert_eq!(desk.reviews.take_back_first_approvals(|it| *it == actor(9), desk.seq + 1).len(), 1);
    assert!(desk.reviews.take_back_first_approvals(|it| *it == actor(9), desk.seq + 2).is_empty());
    assert_eq!(desk.live(0), Some(1));
}

#[test]
fn a_deadline_that_passed_without_a_decision_is_overdue() {
    let mut desk = Desk::default();
    let seen = desk.submit(1);
    let is_overdue = |desk: &Desk, now| desk.reviews.of(VARIANT)[0].is_overdue(now);
    assert!(!is_overdue(&desk, u64::MAX), "it was not escalated");
    desk.step(1, &review(1, Step::Escalate { to: "legal".into(), by_unix_ms: 50, seen })).expect("escalated");
    assert!(!is_overdue(&desk, 49) && is_overdue(&desk, 50));
    desk.approve(2, 1, ALWAYS).expect("decided");
    assert!(!is_overdue(&desk, 51));
}

#[test]
fn nothing_is_live_before_a_decision_and_the_last_approval_is_live_behind_it() {
    let mut desk = Desk::default();
    let case = desk.submit(1);
    assert_eq!((desk.live(0), desk.reviews.awaiting()), (None, 1));
    desk.approve(1, 1, ALWAYS).expect("approved");
    desk.submit(2);
    assert_eq!((desk.live(0), desk.reviews.awaiting()), (Some(1), 1), "the new picture waits, the former one is shown");
    desk.approve(1, 2, ALWAYS).expect("approved");
    assert_eq!((desk.live(0), desk.states(0)), (Some(2), vec![CaseState::Superseded, CaseState::Live]));
    assert_eq!(
        desk.reviews.case(case).map(|(variant, case)| (variant, case.recipe)),
        Some((VARIANT, RecipeId::from_raw([1; 16])))
    );
}

#[test]
fn a_picture_is_live_in_its_time_and_gives_the_place_back() {
    let mut desk = Desk::default();
    for number in [1, 2] {
        desk.submit(number);
    }
    desk.approve(1, 1, ALWAYS).expect("approved");
    desk.approve(1, 2, (Some(100), Some(200))).expect("approved");
    let at = |now| (desk.live(now), desk.reviews.next_change_unix_ms(VARIANT, now), desk.states(now)[1]);
    assert_eq!(at(99), (Some(1), Some(100), CaseState::Scheduled));
    assert_eq!(at(100), (Some(2), Some(200), CaseState::Live));
    assert_eq!(at(200), (Some(1), None, CaseState::Expired));
    assert_eq!(desk.approve(1, 2, (Some(5), Some(5))), Err(ReviewRefusal::Schedule));
}

#[test]
fn what_is_paused_is_not_shown_and_comes_back() {
    let mut desk = Desk::default();
    desk.submit(1);
    let pause = |desk: &Desk| review(1, Step::Pause { seen: desk.seen(1) });
    let early = pause(&desk);
    assert_eq!(desk.step(1, &early), Err(ReviewRefusal::OutOfTurn("is not approved")));
    desk.approve(1, 1, ALWAYS).expect("approved");
    let now = pause(&desk);
    desk.step(1, &now).expect("paused");
    assert_eq!((desk.live(0), desk.states(0)), (None, vec![CaseState::Paused]));
    let resume = review(1, Step::Resume { seen: desk.seen(1) });
    desk.step(1, &resume).expect("resumed");
    assert_eq!(desk.live(0), Some(1));
    let reject = review(1, Step::Reject { seen: desk.seen(1) });
    desk.step(2, &reject).expect("rejected");
    assert_eq!((desk.live(0), desk.states(0)), (None, vec![CaseState::Rejected]));
}

#[test]
fn the_second_person_agrees_to_the_time_that_the_first_one_said() {
    let mut desk = Desk::default();
    desk.submit(1);
    let approve = |desk: &Desk, until_unix_ms| {
        review(1, Step::Approve { approvers: 2, from_unix_ms: None, until_unix_ms, seen: desk.seen(1) })
    };
    let first = approve(&desk, Some(100));
    desk.step(1, &first).expect("the first");
    let other = approve(&desk, Some(200));
    assert!(matches!(desk.step(2, &other), Err(ReviewRefusal::OutOfTurn(_))));
    let silent = approve(&desk, None);
    desk.step(2, &silent).expect("the second");
    assert_eq!((desk.live(99), desk.live(100)), (Some(1), None));
}

#[test]
fn room_is_made_for_what_waits_and_never_at_the_cost_of_what_is_live() {
    let mut desk = Desk::default();
    for number in 0..CASES_MAX as u8 {
        desk.submit(number);
        desk.approve(1, number, if number == 0 { ALWAYS } else { (Some(1_000), None) }).expect("approved");
    }
    assert_eq!(desk.live(0), Some(0));
    desk.submit(200);
    assert_eq!((desk.live(0), desk.reviews.of(VARIANT).len()), (Some(0), CASES_MAX));
    desk.submit(201);
    let waiting: Vec<u8> = desk.reviews.of(VARIANT).iter().map(|case| case.recipe.as_bytes()[0]).collect();
    assert!(waiting.contains(&201) && waiting.contains(&0), "{waiting:?}");
}

#[test]
fn two_approvals_are_of_two_people() {
    let mut desk = Desk::default();
    desk.submit(1);
    let approve = |desk: &Desk| {
        review(1, Step::Approve { approvers: 2, from_unix_ms: None, until_unix_ms: None, seen: desk.seen(1) })
    };
    let first = approve(&desk);
    desk.step(1, &first).expect("the first");
    assert_eq!((desk.live(0), desk.states(0)), (None, vec![CaseState::NeedsReview]));
    let again = approve(&desk);
    assert_eq!(desk.step(1, &again), Err(ReviewRefusal::SamePerson));
    desk.step(2, &again).expect("the second");
    assert_eq!(desk.live(0), Some(1));
}

#[test]
fn two_people_who_decide_at_once_do_not_decide_past_each_other() {
    let mut desk = Desk::default();
    let seen = desk.submit(1);
    let reject = review(1, Step::Reject { seen });
    desk.approve(1, 1, ALWAYS).expect("approved");
    assert_eq!(desk.step(2, &reject), Err(ReviewRefusal::Overtaken { seen, last: seen + 1 }));
    assert_eq!(desk.live(0), Some(1));
}

#[test]
fn a_variant_keeps_what_is_approved_longest() {
    let mut desk = Desk::default();
    desk.submit(0);
    desk.approve(1, 0, ALWAYS).expect("approved");
    for number in 1..=200 {
        desk.submit(number);
        assert!(desk.reviews.of(VARIANT).len() <= CASES_MAX);
    }
    assert_eq!((desk.live(0), desk.reviews.awaiting()), (Some(0), CASES_MAX - 1));
    assert_eq!(desk.reviews.variants.size(), CASES_MAX);
    let again = review(200, submit(&[]));
    assert!(matches!(desk.step(0, &again), Err(ReviewRefusal::Known(_))));
}

#[test]
fn cases_are_read_as_they_were_written() {
    let mut desk = Desk::default();
    desk.submit(1);
    desk.submit(2);
    desk.approve(1, 2, (Some(1), Some(9))).expect("approved");
    let escalate = review(1, Step::Escalate { to: "legal".into(), by_unix_ms: 5, seen: desk.seen(1) });
    desk.step(1, &escalate).expect("escalated");
    for (variant, cases) in desk.reviews.variants() {
        let text = serde_json::to_string(cases).expect("json");
        let read: Vec<Case> = serde_json::from_str(&text).expect("its own form");
        let mut other = Reviews::default();
        other.put(variant.into(), read.into());
        assert_eq!(other.of(variant), cases);
        assert_eq!(other.awaiting(), desk.reviews.awaiting());
    }
}

/// What was approved in one cut says nothing of another; what was decided before cuts were written down counts for every one.
#[test]
fn a_decision_holds_in_its_cut() {
    let mut desk = Desk::default();
    desk.submit(1);
    desk.approve(1, 1, ALWAYS).expect("its turn");
    let in_cut = |desk: &Desk, cut| desk.reviews.live(VARIANT, cut, 0).map(|case| case.recipe.as_bytes()[0]);
    assert_eq!((in_cut(&desk, CUT), in_cut(&desk, "1:1")), (Some(1), None));
    let square = |step| Review { cut: Some("1:1".into()), ..review(1, step) };
    let (recipe, master) = (RecipeId::from_raw([1; 16]), MasterId::from_raw([1; 16]));
    assert!(!desk.reviews.is_known(VARIANT, "1:1", recipe, master));
    let seen = desk.step(0, &square(submit(&[]))).expect("another cut is another case");
    assert!(desk.reviews.is_known(VARIANT, "1:1", recipe, master));
    let step = Step::Approve { approvers: 1, from_unix_ms: None, until_unix_ms: None, seen };
    desk.step(1, &square(step)).expect("its turn");
    assert_eq!((in_cut(&desk, CUT), in_cut(&desk, "1:1")), (Some(1), Some(1)));
    assert_eq!(desk.states(0), [CaseState::Live, CaseState::Live], "each in its cut");

    let mut former = Desk::default();
    let uncut = |step| Review { cut: None, ..review(2, step) };
    let seen = former.step(0, &uncut(submit(&[]))).expect("a new picture");
    let step = Step::Approve { approvers: 1, from_unix_ms: None, until_unix_ms: None, seen };
    former.step(1, &uncut(step)).expect("its turn");
    assert_eq!((in_cut(&former, CUT), in_cut(&former, "1:1")), (Some(2), Some(2)));
}

/// A master is needed from its submission until its last case is turned down.
#[test]
fn masters_of_open_cases_are_needed() {
    let mut desk = Desk::default();
    let master = |number: u8| MasterId::from_raw([number; 16]);
    desk.submit(1);
    desk.submit(2);
    assert!(desk.reviews.needs(master(1)) && desk.reviews.needs(master(2)) && !desk.reviews.needs(master(3)));
    desk.approve(1, 1, ALWAYS).expect("its turn");
    let square = Review { cut: Some("1:1".into()), ..review(1, submit(&[])) };
    desk.step(0, &square).expect("another cut");
    let seen = desk.seen(2);
    desk.step(1, &review(2, Step::Reject { seen })).expect("its turn");
    assert!(desk.reviews.needs(master(1)) && !desk.reviews.needs(master(2)));
    let seen = desk.seen(1);
    desk.step(1, &review(1, Step::Reject { seen })).expect("its turn");
    assert!(desk.reviews.needs(master(1)), "in the other cut");
}

/// People decide when each gate that is awaited has reported, whatever it says; a gate approves nothing.
#[test]
fn gates_report_before_people_decide() {
    let mut desk = Desk::default();
    for gates in [&["A"][..], &["a", "a"], &[""], &["a"; 9]] {
        assert_eq!(desk.step(0, &review(1, submit(gates))), Err(ReviewRefusal::Gates), "{gates:?}");
    }
    desk.step(0, &review(1, submit(&["brand", "text"]))).expect("a new picture");
    assert_eq!(desk.states(0), [CaseState::Checking]);
    let awaited = |gates: &[&str]| Err(ReviewRefusal::Checking(gates.iter().map(ToString::to_string).collect()));
    assert_eq!(desk.approve(1, 1, ALWAYS), awaited(&["brand", "text"]));
    let unknown = review(1, report("faces", GateVerdict::Pass));
    assert_eq!(desk.step(2, &unknown), Err(ReviewRefusal::NoSuchGate("faces".into())));
    let before = |desk: &Desk, gate| {
        let (step, by) = (review(1, report(gate, GateVerdict::Pass)), (actor(2), 0));
        desk.reviews.admit(&step, by).expect("it is awaited")
    };
    let (first, last) = (before(&desk, "text"), {
        desk.step(2, &review(1, report("text", GateVerdict::Fail))).expect("awaited");
        before(&desk, "brand")
    });
    assert!(!was_last_awaited(first.as_deref(), "text") && was_last_awaited(last.as_deref(), "brand"));
    assert_eq!((desk.states(0), desk.approve(1, 1, ALWAYS)), (vec![CaseState::Checking], awaited(&["brand"])));
    desk.step(2, &review(1, report("brand", GateVerdict::Pass))).expect("awaited");
    assert_eq!((desk.states(0), desk.live(0)), (vec![CaseState::NeedsReview], None), "a gate is no person");
    // Anew: the last report of each stands, and who looked before it has to look again.
    let seen = desk.seen(1);
    desk.step(2, &review(1, report("text", GateVerdict::Pass))).expect("known");
    let reports = &desk.reviews.of(VARIANT)[0].reports;
    let found: Vec<_> = reports.iter().map(|it| (it.finding.gate.as_str(), it.finding.verdict)).collect();
    assert_eq!(found, [("brand", GateVerdict::Pass), ("text", GateVerdict::Pass)]);
    assert!(!was_last_awaited(before(&desk, "text").as_deref(), "text"));
    let late = review(1, Step::Reject { seen });
    assert!(matches!(desk.step(1, &late), Err(ReviewRefusal::Overtaken { .. })));
    desk.approve(1, 1, ALWAYS).expect("each has reported");
    assert_eq!(desk.live(0), Some(1));
}

/// A person may turn down what is being checked.
#[test]
fn what_is_checked_can_be_rejected() {
    let mut desk = Desk::default();
    let seen = desk.step(0, &review(1, submit(&["brand"]))).expect("a new picture");
    desk.step(1, &review(1, Step::Reject { seen })).expect("it is plain to see");
    assert_eq!(desk.states(0), [CaseState::Rejected]);
    assert!(matches!(desk.approve(1, 1, ALWAYS), Err(ReviewRefusal::Checking(_))), "it was never checked");
}

/// What former versions wrote has no gates, and reads as it did.
#[test]
fn cases_and_steps_of_former_versions_read_as_before() {
    let mut desk = Desk::default();
    desk.submit(1);
    let json = serde_json::to_string(desk.reviews.of(VARIANT)).expect("plain structs");
    assert!(!json.contains("awaits") && !json.contains("reports") && !json.contains("gates"), "{json}");
    let read: Vec<Case> = serde_json::from_str(&json).expect("as it was written");
    assert_eq!(read, desk.reviews.of(VARIANT));
    let step = serde_json::to_string(&submit(&[])).expect("a plain struct");
    assert!(!step.contains("gates"), "{step}");
}

#[test]
fn what_stood_before_a_step_says_whether_it_was_live() {
    let mut desk = Desk::default();
    let before = |desk: &Desk, number: u8| {
        let step = review(number, Step::Reject { seen: desk.seen(number) });
        was_live(desk.reviews.admit(&step, (actor(1), 50)).expect("a place").as_deref())
    };
    (1..=3).for_each(|number| {
        desk.submit(number);
    });
    desk.approve(1, 1, ALWAYS).expect("approved");
    desk.approve(1, 2, ALWAYS).expect("approved");
    desk.approve(1, 3, (Some(60), None)).expect("scheduled");
    let live = [1, 2, 3].map(|number| before(&desk, number));
    assert_eq!(live, [false, true, false]);
    for before in ["approved, by entry 7", "approved, paused, by entry 7", "needs_review, by entry 1", "checking: live"]
    {
        assert!(!was_live(Some(before)), "{before}");
    }
}

#[test]
fn a_decision_is_taken_back_by_who_made_it_in_time() {
    let mut desk = Desk::default();
    desk.submit(1);
    let approved = desk.approve(1, 1, ALWAYS).expect("approved");
    assert_eq!(desk.live(0), Some(1));
    let undo = |seen| review(1, Step::Undo { seen });
    let at = |desk: &Desk, by, seen, now| desk.reviews.admit(&undo(seen), (actor(by), now)).map(drop);
    assert!(matches!(at(&desk, 2, approved, 0), Err(ReviewRefusal::NotUndone(why)) if why.contains("another person")));
    assert!(matches!(at(&desk, 1, approved, UNDO_MS_MAX), Err(ReviewRefusal::NotUndone(why)) if why.contains("time")));
    assert_eq!(at(&desk, 1, approved - 1, 0), Err(ReviewRefusal::Overtaken { seen: approved - 1, last: approved }));
    let seq = desk.step(1, &undo(approved)).expect("taken back");
    assert_eq!((desk.live(0), desk.states(0)), (None, vec![CaseState::NeedsReview]));
    assert_eq!(desk.reviews.of(VARIANT)[0].steps, [1, approved, seq], "every step stands in the history");
    assert!(matches!(at(&desk, 1, seq, 0), Err(ReviewRefusal::NotUndone(_))), "an undo is none to take back");
}

#[test]
fn what_is_taken_back_leaves_what_stood_before() {
    let mut desk = Desk::default();
    desk.submit(1);
    desk.submit(2);
    desk.approve(1, 1, (None, Some(500))).expect("approved");
    desk.approve(1, 2, ALWAYS).expect("approved, too");
    let seen = desk.step(2, &review(2, Step::Reject { seen: desk.seen(2) })).expect("rejected");
    assert_eq!(desk.live(0), Some(1));
    desk.step(2, &review(2, Step::Undo { seen })).expect("taken back");
    assert_eq!(desk.live(0), Some(2), "it is live again, as it was");
    let seen = desk.approve(2, 1, ALWAYS).expect("approved for another time");
    assert_eq!(desk.live(600), Some(1));
    desk.step(2, &review(1, Step::Undo { seen })).expect("taken back");
    assert_eq!((desk.live(0), desk.live(600)), (Some(2), Some(2)));
    assert_eq!(desk.reviews.of(VARIANT)[0].until_unix_ms, Some(500));
}

/// An undo brings back no approval of a person who was forgotten meanwhile.
#[test]
fn who_was_forgotten_approves_by_no_undo() {
    let mut desk = Desk::default();
    let case = desk.submit(1);
    let seen = desk.step(1, &review(1, by_two(case))).expect("the first approval");
    let seen = desk.step(2, &review(1, by_two(seen))).expect("the second one");
    assert!(desk.reviews.await_second_approvals(), "an undo would have it awaited");
    assert_eq!(desk.reviews.take_back_first_approvals(|it| *it == actor(1), 9).len(), 1);
    assert_eq!(desk.live(0), Some(1), "what two people decided stays");
    assert!(matches!(desk.step(2, &review(1, Step::Undo { seen })), Err(ReviewRefusal::NotUndone(_))));
}
