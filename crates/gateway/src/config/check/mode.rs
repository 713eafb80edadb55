use std::time::Duration;

use policy::degrade::{Force, MODES_MAX};

use super::super::problem::Place;
use super::super::{Config, Measure, Mode, Service};
use super::{policy, route};

/// No shorter exercise is certain to be noticed: see [`crate::service`], which looks at modes a few times a second.
const EXERCISE_MIN: Duration = Duration::from_secs(1);

pub(super) fn check(config: &Config, name: &str, service: &Service, place: &mut Place<'_>) {
    let mut place = place.at("modes");
    if service.modes.len() > MODES_MAX {
        let message = format!("{} modes are more than {MODES_MAX}", service.modes.len());
        place.error(message, "join some: a mode may have several measures");
    }
    for (mode, params) in &service.modes {
        check_one(config, name, mode, params, &mut place.at(mode));
    }
}

fn check_one(config: &Config, service: &str, name: &str, mode: &Mode, place: &mut Place<'_>) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        let remedy = "write letters, digits, `-`, `_` and `.`: it goes into the `seawall-mode` header";
        place.error(format!("`{name}` is no name of a mode"), remedy);
    }
    let params = &mode.params;
    policy(place, params.check());
    let triggered = params.utilization.is_some() || params.shed.is_some() || params.burn.is_some();
    if params.force == Force::Auto && !triggered && params.exercise.is_none() {
        let remedy = "give it `utilization` or `shed`, or say `force: off` if only operators enter it";
        place.warn("nothing ever enters the mode", remedy);
    }
    if params.exercise.is_some_and(|exercise| exercise.lasts.get() < EXERCISE_MIN) {
        let message = "an exercise this short may be missed";
        place.at("exercise").at("for").error(message, "make `for` 1s or longer");
    }
    if mode.measures.is_empty() {
        place.error("the mode leaves nothing out", "give it `measures`, such as `[no_retries, no_hedging]`");
    }
    let mut place = place.at("measures");
    for (index, measure) in mode.measures.iter().enumerate() {
        let before = &mode.measures[..index];
        let mut place = place.item(index);
        if before.iter().any(|other| other.name() == measure.name()) {
            place.error(format!("`{}` stands here twice", measure.name()), "keep one of them");
        }
        match measure {
            Measure::Answer(answer) => {
                let mut place = place.at("answer");
                let _ = crate::router::fixed_answer(answer, &mut place);
                if before.iter().any(|other| matches!(other, Measure::Service(_))) {
                    place.error("`answer` and `service` both say who answers", "keep one of them");
                }
            }
            Measure::Service(fallback) => {
                let mut place = place.at("service");
                if fallback == service {
                    let remedy = "name another service that answers more cheaply";
                    place.error(format!("`{service}` cannot stand in for itself"), remedy);
                } else {
                    route::known(config, fallback, &mut place);
                }
                if before.iter().any(|other| matches!(other, Measure::Answer(_))) {
                    place.error("`answer` and `service` both say who answers", "keep one of them");
                }
            }
            Measure::BodyMax(max) if max.get() == 0 => {
                let mut place = place.at("body_max");
                place.error("0 is no bound", "give it a size, such as 64KiB");
            }
            Measure::DropClass(_)
            | Measure::NoHedging
            | Measure::NoRetries
            | Measure::BodyMax(_)
            | Measure::LogSample(_) => {}
        }
    }
}
