use super::*;
use crate::Rng;
use proptest::prelude::*;
use std::vec;

const SECOND: Duration = Duration::from_secs(1);

/// Measures as a list of letters, the last word last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Letters(String);

impl Measures for Letters {
    fn with(&self, other: &Self) -> Self {
        Self(alloc::format!("{}{}", self.0, other.0))
    }
}

fn at(secs: f64) -> Instant {
    Instant::from_secs(1_000).after(Duration::from_secs_f64(secs))
}

fn busy(enter: f64) -> ModeParams {
    ModeParams { utilization: Some(Threshold { enter, leave: None }), ..ModeParams::default() }
}

fn utilization(figure: f64) -> Signals {
    Signals { utilization: Some(figure), ..Signals::default() }
}

proptest! {
    /// Entered only after a figure was high all along, left only after all were low all along; so never twice within
    /// either span.
    #[test]
    fn never_flaps_and_never_moves_without_reason(
        figures in prop::collection::vec(0.0..1.5f64, 1..400), enter_after in 1..10u64, leave_after in 1..10u64,
        enter in 0.2..1.2f64, leave in 0.1..1.0f64,
    ) {
        let params = ModeParams {
            utilization: Some(Threshold { enter, leave: Some(enter * leave) }),
            enter_after: Span::from_secs(enter_after),
            leave_after: Span::from_secs(leave_after),
            ..ModeParams::default()
        };
        let mut governor = Governor::new(vec![params], at(0.0));
        for second in 0..figures.len() {
            let now = at(second as f64);
            for change in governor.on_signals(now, &utilization(figures[second])) {
                let (entered, span) = match change.entered {
                    Some(trigger) => { prop_assert_eq!(trigger, Trigger::Utilization); (true, enter_after) }
                    None => (false, leave_after),
                };
                prop_assert!(second as u64 >= span);
                for figure in &figures[second - span as usize..=second] {
                    let speaks = if entered { *figure >= enter } else { *figure < enter * leave };
                    prop_assert!(speaks, "{figure} in {params:?}", params = governor.modes[0].0);
                }
            }
        }
    }

    /// A constant figure settles: high means in force, low means not, whatever came before.
    #[test]
    fn whatever_came_before_it_settles(
        figures in prop::collection::vec(prop::option::of(0.0..2.0f64), 0..100), high in any::<bool>(),
    ) {
        let mut governor = Governor::new(vec![busy(0.9)], at(0.0));
        let mut second = 0.0;
        for figure in figures {
            second += 1.0;
            governor.on_signals(at(second), &Signals { utilization: figure, ..Signals::default() });
        }
        for _ in 0..40 {
            second += 1.0;
            governor.on_signals(at(second), &utilization(if high { 1.0 } else { 0.1 }));
        }
        prop_assert_eq!(governor.word(), u32::from(high));
    }
}

#[test]
fn enters_after_a_while_and_leaves_after_a_longer_one() {
    let mut governor = Governor::new(vec![busy(0.9)], at(0.0));
    let mut told = vec![];
    for second in 0..100 {
        let figure = if (10..40).contains(&second) { 0.95 } else { 0.5 };
        let changes = governor.on_signals(at(f64::from(second)), &utilization(figure));
        told.extend(changes.into_iter().map(|change| (second, change.entered)));
    }
    assert_eq!(told, [(15, Some(Trigger::Utilization)), (70, None)]);
}

#[test]
fn a_missing_figure_enters_nothing_and_keeps_nothing() {
    let params = ModeParams { burn: Some(Threshold { enter: 14.4, leave: None }), ..ModeParams::default() };
    let mut governor = Governor::new(vec![params], at(0.0));
    let burn = |burn| Signals { burn, ..Signals::default() };
    for second in 0..60 {
        assert!(governor.on_signals(at(f64::from(second)), &burn(None)).is_empty());
    }
    for second in 60..70 {
        governor.on_signals(at(f64::from(second)), &burn(Some(20.0)));
    }
    assert_eq!(governor.word(), 1);
    for second in 70..101 {
        governor.on_signals(at(f64::from(second)), &burn(None));
    }
    assert_eq!(governor.word(), 0);
}

#[test]
fn an_operators_word_holds_at_once() {
    let force = |force| vec![ModeParams { force, ..busy(0.9) }];
    let mut governor = Governor::new(force(Force::On), at(0.0));
    assert_eq!(
        governor.on_signals(at(0.0), &utilization(0.0)),
        [Switch { mode: 0, entered: Some(Trigger::Forced) }]
    );
    governor.on_params(force(Force::Off));
    assert_eq!(governor.on_signals(at(1.0), &utilization(2.0)), [Switch { mode: 0, entered: None }]);
    for second in 2..60 {
        assert!(governor.on_signals(at(f64::from(second)), &utilization(2.0)).is_empty());
    }
    governor.on_params(force(Force::Auto));
    for second in 60..66 {
        governor.on_signals(at(f64::from(second)), &utilization(2.0));
    }
    assert_eq!(governor.word(), 1);
}

#[test]
fn measures_of_several_modes_add_up_in_their_order() {
    let letters = |text: &str| Letters(text.into());
    let list = [(busy(0.5), letters("a")), (busy(0.7), letters("b")), (busy(0.9), letters("c"))];
    let modes = Modes::new(&list);
    let mut governor = Governor::new(list.iter().map(|(params, _)| params.clone()).collect(), at(0.0));
    let mut rng = Rng::with_seed(1);
    assert!(modes.active(&mut rng).is_none());
    for (second, figure, expected) in [(0, 0.8, ""), (10, 0.8, "ab"), (20, 1.0, "ab"), (30, 1.0, "abc")] {
        governor.on_signals(at(f64::from(second)), &utilization(figure));
        modes.set(&governor);
        let active = modes.active(&mut rng);
        assert_eq!(active.map_or("", |active| &active.measures.0), expected, "at {second} s");
    }
}

#[test]
fn an_exercise_touches_its_share_of_requests_on_schedule_and_nothing_else() {
    let exercise =
        Exercise { share: Ratio::percent(5), every: Span::from_secs(60), lasts: Span::from_secs(10) };
    let params = ModeParams { exercise: Some(exercise), ..busy(0.9) };
    let modes = Modes::new(&[(params.clone(), Letters("a".into()))]);
    let mut governor = Governor::new(vec![params.clone()], at(0.0));
    let mut rng = Rng::with_seed(1);
    let mut exercised = vec![];
    for second in 0..180 {
        assert!(governor.on_signals(at(f64::from(second)), &utilization(0.1)).is_empty());
        modes.set(&governor);
        let active = (0..1_000).filter_map(|_| modes.active(&mut rng));
        let count = active.filter(|active| active.exercised == 1 && active.measures.0 == "a").count();
        exercised.push(count);
        assert_eq!(modes.in_force(), 0);
    }
    let sum = |from: usize, to: usize| exercised[from..to].iter().sum::<usize>();
    assert_eq!((sum(0, 60), sum(70, 120), sum(130, 180)), (0, 0, 0));
    assert!((400..600).contains(&sum(60, 70)) && (400..600).contains(&sum(120, 130)), "{exercised:?}");
    // What is turned off by hand is not exercised either.
    governor.on_params(vec![ModeParams { force: Force::Off, ..params }]);
    governor.on_signals(at(0.0).after(SECOND * 185), &utilization(0.1));
    modes.set(&governor);
    assert!((0..1_000).all(|_| modes.active(&mut rng).is_none()));
}

#[test]
fn senseless_parameters_are_named() {
    assert!(busy(0.9).check().is_empty());
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(busy(bad).check()[0].0, "utilization", "{bad}");
    }
    let exercise = Exercise { share: Ratio::ONE, every: Span::default(), lasts: Span::from_secs(1) };
    let params = ModeParams {
        shed: Some(Threshold { enter: 0.1, leave: Some(0.2) }),
        exercise: Some(exercise),
        ..ModeParams::default()
    };
    let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["shed", "exercise", "exercise"]);
}
